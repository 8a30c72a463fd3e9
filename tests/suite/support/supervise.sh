# Runs one server for the tests, and ends it surely.
#
#   sh supervise.sh FOLDER COMMAND...
#
# Verbs come on stdin, one a line; each is answered with one line on stdout. When stdin ends, which
# it does however the test process ends, the server is killed and the folder removed.

folder=$1
shift

# The server must not hold the pipe, so it moves off stdin, where children would inherit it.
exec 3<&0 </dev/null

pid=
stop() {
    if [ -n "$pid" ]; then
        kill -9 "$pid"
        wait "$pid"
        pid=
    fi
}

while read -r verb <&3; do
    case $verb in
        start)
            "$@" 3<&- >>"$folder/server.log" 2>&1 &
            pid=$!
            echo "$pid"
            ;;
        kill)
            stop
            echo killed
            ;;
        pause)
            kill -STOP "$pid"
            echo paused
            ;;
        resume)
            kill -CONT "$pid"
            echo resumed
            ;;
    esac
done

stop
# The test process may have died while it was filling the folder by another process, which then
# makes files as these are removed.
tries=100
until rm -rf "$folder" || [ "$tries" -eq 0 ]; do
    tries=$((tries - 1))
    sleep 0.1
done
