# Runs one server for the tests, and ends it in every case.
#
#   sh supervise.sh FOLDER COMMAND...
#
# Reads commands from stdin, one a line, and answers each with one line on stdout. Stdin ends when
# the test process ends, in any way. Then the server is killed and the folder removed.

folder=$1
shift

# The pipe moves from stdin to another descriptor, which the server does not inherit: if the server
# held the pipe, stdin would never end.
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
# The test process may have died while another process of the test was filling the folder. That
# process may create files while this loop removes them.
tries=100
until rm -rf "$folder" || [ "$tries" -eq 0 ]; do
    tries=$((tries - 1))
    sleep 0.1
done
