"""Private servers on free ports of 127.0.0.1, with the sizes of the smallest machine (scripts/up)."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

READY_SECONDS = 60
# A number of dirty pages that an idle server may have.
DIRTY_PAGES_FEW = 50
AS_ROOT = ["--user=root"] if os.geteuid() == 0 else []
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(name):
    path = shutil.which(name, path=PATH)
    if path is None:
        sys.exit(f"scripts/bench: {name} is not installed; scripts/bench installs it on Debian")
    return path


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"scripts/bench: {' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """A server process with its own folder."""

    def __init__(self, name, folder, confine=None):
        self.name, self.folder, self.confine = name, os.path.join(folder, name), confine
        os.makedirs(self.folder)
        self.port = free_port()
        self.process = None

    def launch(self, command):
        self.log = open(os.path.join(self.folder, "log"), "ab")
        # In a new session, so that Ctrl-C ends only this program, which then ends the server.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=self.confine,
        )
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(os.path.join(self.folder, "log"), errors="replace") as log:
                    sys.exit(f"scripts/bench: {self.name} did not start:\n{log.read()[-2000:]}")
            time.sleep(0.05)

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process.poll() is None

    def stop(self):
        if self.process and self.is_running():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def disk_bytes(self):
        return sum(
            os.lstat(os.path.join(folder, name)).st_blocks * 512
            for folder, _, names in os.walk(self.folder)
            for name in names
        )


class Redis(Server):
    def __init__(self, folder, confine=None):
        super().__init__("redis", folder, confine)
        self.launch([
            program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder,
            "--save", "", "--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction",
        ])  # fmt: skip

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"redis://{self.address}"

    def command(self, *words):
        """Sends a command whose reply is text or OK. Returns the lines of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
            link.sendall(" ".join(words).encode() + b"\r\nQUIT\r\n")
            answer = b""
            while part := link.recv(65536):
                answer += part
        return answer.decode().splitlines()

    def answers(self):
        try:
            return self.command("PING")[0] == "+PONG"
        except OSError:
            return False

    def clear(self):
        self.command("FLUSHALL")


class Database(Server):
    """The common part of MariaDB and MySQL."""

    # Whether `clear` waits until the server has written its dirty pages; not needed in a short run.
    flushes = True

    @property
    def url(self):
        return f"mysql://root@127.0.0.1:{self.port}/vehicles"

    def client(self, database=""):
        return [
            program("mariadb"), "--no-defaults", "-h127.0.0.1", f"-P{self.port}", "-uroot",
            "--batch", "--skip-column-names", *([database] if database else []),
        ]  # fmt: skip

    def sql(self, statement, database=""):
        return run([*self.client(database), "-e", statement])

    def answers(self):
        done = subprocess.run([*self.client(), "-e", "SELECT 1"], capture_output=True)
        return done.returncode == 0

    def clear(self):
        """Creates an empty database and waits until dirty pages are written: each run begins alike."""
        self.sql("DROP DATABASE IF EXISTS vehicles; CREATE DATABASE vehicles")
        if not self.flushes:
            return
        kept = self.sql("SELECT @@innodb_max_dirty_pages_pct").strip()
        self.sql("SET GLOBAL innodb_max_dirty_pages_pct = 0")
        deadline = time.monotonic() + READY_SECONDS
        while self.dirty_pages() > DIRTY_PAGES_FEW and time.monotonic() < deadline:
            time.sleep(0.05)
        self.sql(f"SET GLOBAL innodb_max_dirty_pages_pct = {kept}")

    def dirty_pages(self):
        return int(self.sql("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'").split()[1])

    def resize_pool(self, size):
        """Changes the size of the buffer pool, and waits until it has it."""
        self.sql(f"SET GLOBAL innodb_buffer_pool_size = {size}")
        deadline = time.monotonic() + READY_SECONDS
        while True:
            said = self.sql("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_resize_status'").split("\t")[1].strip()
            # A server that changes the size at once reports nothing.
            if not said or said.startswith(("Completed", "Size did not change")):
                return
            if time.monotonic() > deadline:
                sys.exit(f"scripts/bench: the buffer pool keeps its size: {said}")
            time.sleep(0.05)

    def rows(self, table="vehicle_events"):
        return int(self.sql(f"SELECT COUNT(*) FROM {table}", "vehicles"))


class Mariadb(Database):
    # The settings of scripts/up and docs/tuning.md.
    SIZES = ["--innodb-buffer-pool-size=512M", "--innodb-log-file-size=256M"]

    def __init__(self, folder, confine=None):
        super().__init__("mariadb", folder, confine)
        data = os.path.join(self.folder, "data")
        run([
            program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", f"--tmpdir={self.folder}",
            "--skip-test-db", "--auth-root-authentication-method=normal", *AS_ROOT,
        ])  # fmt: skip
        self.launch([
            program("mariadbd"), "--no-defaults", f"--datadir={data}", *AS_ROOT, f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--socket={self.folder}/sock", f"--tmpdir={self.folder}",
            f"--pid-file={self.folder}/pid", "--skip-name-resolve", *self.SIZES,
            "--innodb-flush-log-at-trx-commit=1", "--skip-log-bin", "--max-connections=64",
            "--character-set-server=utf8mb4", "--secure-file-priv=",
        ])  # fmt: skip


class Mysql9(Database):
    """The unpacked MySQL of scripts/mysql9, under its own loader and libraries."""

    def __init__(self, folder, confine=None):
        super().__init__("mysql9", folder, confine)
        root = os.path.join(os.environ.get("LEMONADE_MYSQL9_HOME", "target/mysql9"), "root")
        root = os.path.abspath(root)
        libraries = os.path.join(root, "usr/lib", f"{os.uname().machine}-linux-gnu")
        loaders = [name for name in os.listdir(libraries) if name.startswith("ld-linux-") and ".so" in name]
        usr = os.path.join(root, "usr")
        server = [
            os.path.join(libraries, loaders[0]), "--library-path", f"{libraries}:{usr}/lib/mysql/private",
            f"{usr}/sbin/mysqld", "--no-defaults", f"--basedir={usr}", f"--lc-messages-dir={usr}/share/mysql",
            f"--character-sets-dir={usr}/share/mysql/charsets", f"--plugin-dir={usr}/lib/mysql/plugin",
            f"--datadir={self.folder}/data", f"--tmpdir={self.folder}", *AS_ROOT,
        ]  # fmt: skip
        grants = os.path.join(self.folder, "grants.sql")
        with open(grants, "w") as file:
            file.write("CREATE USER 'root'@'127.0.0.1'; GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;")
        run([*server, "--initialize-insecure", f"--init-file={grants}"])
        self.launch([
            *server, f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.folder}/sock",
            f"--pid-file={self.folder}/pid", "--innodb-buffer-pool-size=512M", "--innodb-redo-log-capacity=256M",
            "--innodb-flush-log-at-trx-commit=1", "--skip-log-bin", "--max-connections=64", "--mysqlx=OFF",
            "--performance-schema=OFF", "--local-infile=1", "--secure-file-priv=",
        ])  # fmt: skip

    def load_data(self, on):
        self.sql(f"SET GLOBAL local_infile = {int(on)}")
