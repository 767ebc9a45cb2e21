"""
The marathon's program: runs inside a sandbox and keeps state of every kind that pause, resume, snapshot, fork, checkpoint and
rollback must not lose or mix up, so that `model.ts` beside it can predict all of it from the same seeds.

    python3 guest-program.py start FOLDER PORT    runs in the background; returns when it listens
    python3 guest-program.py serve FOLDER PORT    the same in the foreground

It takes one command per connection to 127.0.0.1:PORT and answers one line of JSON, so nothing depends on a connection that lasts:

    bash -c 'exec 3<>/dev/tcp/127.0.0.1/PORT; echo "$0" >&3; cat <&3' "apply 42 20"

    apply SEED COUNT       changes the state by COUNT operations drawn from SEED
    check [cold] [detail]  what the state is. cold: files are read from the disk, not from memory. detail: of what the digests are
    quit

State: blocks of bytes, a region of anonymous memory (with pages zeroed and given back), a table of Python objects, files, a file that
is open and has no name, a file on a tmpfs, two open SQLite databases (write-ahead log, rollback journal; transactions may stay open from
one command to the next), an established TCP connection to itself. Every random draw happens before anything depends on the state: model
and program stay in step whatever they hold.
"""

import hashlib
import json
import mmap
import os
import secrets
import socket
import sqlite3
import sys
import threading
import time
import zlib

PAGE = 4096
BLOCK_KEYS = 48
REGION_PAGES = 1024
TABLE_KEYS = 2000
FILE_NAMES = 64
SHARED_BYTES = 1 << 20
ROW_IDS = 5000
SEEDS = 1 << 31
DATABASES = ("wal", "rollback")
COMMAND_BYTES_MAX = 200


class SeededRandom:
    """The same numbers as packages/testing/src/seeded-random.ts."""

    def __init__(self, seed):
        self.state = seed & 0xFFFFFFFF

    def next(self):
        self.state = (self.state + 0x6D2B79F5) & 0xFFFFFFFF
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 15)) * (mixed | 1)) & 0xFFFFFFFF
        mixed ^= (mixed + (((mixed ^ (mixed >> 7)) * (mixed | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
        return ((mixed ^ (mixed >> 14)) & 0xFFFFFFFF) / 2**32

    def integer(self, bound):
        return int(self.next() * bound)


def content(seed, length):
    """Bytes that differ from page to page: a prime number of pseudorandom ones, again and again."""
    unit = hashlib.shake_128(b"%d" % seed).digest(1021)
    return (unit * (length // len(unit) + 1))[:length]


def digest(value):
    """Short hash of anything JSON can say."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:16]


class Program:
    def __init__(self, folder):
        self.folder = os.path.join(folder, "files")
        os.makedirs(self.folder, exist_ok=True)
        self.instance = secrets.token_hex(8)
        self.applied = self.operations = self.echoes = 0
        self.chain = ""
        self.blocks = {}
        self.block_crcs = {}
        self.region = mmap.mmap(-1, REGION_PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.table = {}
        orphan_path = os.path.join(folder, "orphan")
        self.orphan = os.open(orphan_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.unlink(orphan_path)
        # One name for each instance: two of them on one machine (tests) must not share it.
        self.shared_path = f"/dev/shm/marathon-{self.instance}"
        self.shared = os.open(self.shared_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self.shared, SHARED_BYTES)
        self.shared_map = mmap.mmap(self.shared, SHARED_BYTES)
        self.databases = {name: self.open_database(folder, name) for name in DATABASES}
        self.talk_to_oneself()

    def open_database(self, folder, name):
        database = sqlite3.connect(os.path.join(folder, f"{name}.db"), isolation_level=None, check_same_thread=False)
        mode = {"wal": "WAL", "rollback": "DELETE"}[name]
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, text TEXT NOT NULL, number INTEGER NOT NULL)")
        return database

    def talk_to_oneself(self):
        """An established connection over the loopback interface, for as long as the program runs."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        listener.close()
        self.near.settimeout(30)

        def echo():
            while data := far.recv(64):
                far.sendall(data)

        threading.Thread(target=echo, daemon=True).start()

    def echo(self, text):
        self.near.sendall(text)
        return self.near.recv(64) == text

    # ---- operations -----------------------------------------------------------------------------------------------------------

    def apply(self, seed, count):
        random = SeededRandom(seed)
        for _ in range(count):
            kind = random.integer(100)
            for bound, operation in self.OPERATIONS:
                if kind < bound:
                    said = operation(self, random.integer)
                    self.chain = hashlib.sha256(f"{self.chain}{kind} {said}".encode()).hexdigest()
                    break
            self.operations += 1
        self.applied += 1
        return {"applied": self.applied, "chain": self.chain}

    def set_block(self, key, value):
        self.blocks[key] = value
        self.block_crcs[key] = zlib.crc32(value)
        return f"{key} {len(value)} {self.block_crcs[key]}"

    def allocate(self, draw):
        key, length, seed = draw(BLOCK_KEYS), (draw(64) + 1) * PAGE + draw(PAGE), draw(SEEDS)
        return self.set_block(key, bytearray(content(seed, length)))

    def free(self, draw):
        key = draw(BLOCK_KEYS)
        self.block_crcs.pop(key, None)
        return f"{key} {self.blocks.pop(key, None) is not None}"

    def zero(self, draw):
        key, at, pages = draw(BLOCK_KEYS), draw(SEEDS), draw(16) + 1
        block = self.blocks.get(key)
        if block is None:
            return f"{key} none"
        start = at % len(block) // PAGE * PAGE
        end = min(start + pages * PAGE, len(block))
        block[start:end] = bytes(end - start)
        return self.set_block(key, block)

    def rewrite(self, draw):
        key, at, length, seed = draw(BLOCK_KEYS), draw(SEEDS), draw(20_000), draw(SEEDS)
        block = self.blocks.get(key)
        if block is None:
            return f"{key} none"
        start = at % len(block)
        piece = content(seed, min(length, len(block) - start))
        block[start : start + len(piece)] = piece
        return self.set_block(key, block)

    def region_write(self, draw):
        page, pages, seed = draw(REGION_PAGES), draw(32) + 1, draw(SEEDS)
        end = min(page + pages, REGION_PAGES)
        piece = content(seed, (end - page) * PAGE)
        self.region[page * PAGE : end * PAGE] = piece
        return f"{page} {zlib.crc32(piece)}"

    def region_zero(self, draw):
        page, pages = draw(REGION_PAGES), draw(32) + 1
        end = min(page + pages, REGION_PAGES)
        self.region[page * PAGE : end * PAGE] = bytes((end - page) * PAGE)
        return f"{page} {end}"

    def region_give_back(self, draw):
        page, pages = draw(REGION_PAGES), draw(32) + 1
        end = min(page + pages, REGION_PAGES)
        self.region.madvise(mmap.MADV_DONTNEED, page * PAGE, (end - page) * PAGE)
        return f"{page} {end}"

    def change_table(self, draw):
        key, action, length, number = f"k{draw(TABLE_KEYS)}", draw(4), draw(50), draw(SEEDS)
        if action == 0:
            self.table.pop(key, None)
        elif action == 1:
            self.table.setdefault(key, []).append(number)
        else:
            self.table[key] = [number + index for index in range(length)]
        return f"{key} {len(self.table)}"

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def said_of(self, name):
        value = self.read(name)
        return f"{name} none" if value is None else f"{name} {len(value)} {zlib.crc32(value)}"

    def file_write(self, draw):
        name, length, seed = f"f{draw(FILE_NAMES)}", draw(200_000), draw(SEEDS)
        with open(self.path(name), "wb") as file:
            file.write(content(seed, length))
        return self.said_of(name)

    def file_delete(self, draw):
        name = f"f{draw(FILE_NAMES)}"
        if os.path.exists(self.path(name)):
            os.unlink(self.path(name))
        return name

    def file_append(self, draw):
        name, length, seed = f"f{draw(FILE_NAMES)}", draw(20_000), draw(SEEDS)
        if os.path.exists(self.path(name)):
            with open(self.path(name), "ab") as file:
                file.write(content(seed, length))
        return self.said_of(name)

    def file_truncate(self, draw):
        name, length = f"f{draw(FILE_NAMES)}", draw(200_000)
        if os.path.exists(self.path(name)):
            os.truncate(self.path(name), length)
        return self.said_of(name)

    def file_write_at(self, draw):
        name, offset, length, seed = f"f{draw(FILE_NAMES)}", draw(250_000), draw(30_000), draw(SEEDS)
        if os.path.exists(self.path(name)):
            with open(self.path(name), "r+b") as file:
                file.seek(offset)
                file.write(content(seed, length + 1))
        return self.said_of(name)

    def file_rename(self, draw):
        old, new = f"f{draw(FILE_NAMES)}", f"f{draw(FILE_NAMES)}"
        if os.path.exists(self.path(old)):
            os.rename(self.path(old), self.path(new))
        return self.said_of(new)

    def orphan_write(self, draw):
        offset, length, seed = draw(400_000), draw(30_000), draw(SEEDS)
        os.pwrite(self.orphan, content(seed, length + 1), offset)
        return str(os.fstat(self.orphan).st_size)

    def shared_write(self, draw):
        offset, length, seed = draw(SHARED_BYTES), draw(65_536), draw(SEEDS)
        piece = content(seed, min(length, SHARED_BYTES - offset))
        self.shared_map[offset : offset + len(piece)] = piece
        return f"{offset} {zlib.crc32(piece)}"

    def rows_insert(self, draw):
        name, count = DATABASES[draw(2)], draw(20) + 1
        rows = []
        for _ in range(count):
            row, times, number = draw(ROW_IDS), draw(8) + 1, draw(SEEDS)
            rows.append((row, f"{number:x}" * times, number))
        database = self.databases[name]
        inside = database.in_transaction
        if not inside:
            database.execute("BEGIN")
        database.executemany("INSERT OR REPLACE INTO item VALUES (?, ?, ?)", rows)
        if not inside:
            database.execute("COMMIT")
        return f"{name} {count}"

    def rows_delete(self, draw):
        name, low, count = DATABASES[draw(2)], draw(ROW_IDS), draw(200)
        gone = self.databases[name].execute("DELETE FROM item WHERE id BETWEEN ? AND ?", (low, low + count)).rowcount
        return f"{name} {gone}"

    def rows_update(self, draw):
        name, low, count, add = DATABASES[draw(2)], draw(ROW_IDS), draw(500), draw(1000)
        changed = self.databases[name].execute("UPDATE item SET number = number + ? WHERE id BETWEEN ? AND ?", (add, low, low + count)).rowcount
        return f"{name} {changed}"

    def rows_undone(self, draw):
        name = DATABASES[draw(2)]
        database = self.databases[name]
        if database.in_transaction:
            return f"{name} busy"
        database.execute("BEGIN")
        gone = database.execute("DELETE FROM item").rowcount
        database.execute("ROLLBACK")
        return f"{name} {gone}"

    def transaction(self, draw):
        name, commit = DATABASES[draw(2)], draw(2) == 1
        database = self.databases[name]
        statement = ("COMMIT" if commit else "ROLLBACK") if database.in_transaction else "BEGIN IMMEDIATE"
        database.execute(statement)
        return f"{name} {statement}"

    def talk(self, draw):
        self.echoes += 1
        return str(self.echo(b"%d" % draw(SEEDS))).lower()

    def settle(self, draw):
        name = f"f{draw(FILE_NAMES)}"
        if os.path.exists(self.path(name)):
            self.settle_file(self.path(name), forget=False)
        return name

    # Draws below the bound; in model.ts in the same order.
    OPERATIONS = (
        (10, allocate), (15, free), (21, zero), (29, rewrite), (37, region_write), (41, region_zero), (45, region_give_back),
        (51, change_table), (59, file_write), (63, file_delete), (67, file_append), (71, file_truncate), (74, file_write_at), (77, file_rename),
        (80, orphan_write), (84, shared_write), (89, rows_insert), (92, rows_delete), (94, rows_update), (96, rows_undone), (98, transaction),
        (99, talk), (100, settle),
    )  # fmt: skip

    # ---- check ----------------------------------------------------------------------------------------------------------------

    def settle_file(self, path, forget):
        """fsync; with `forget` the kernel also drops what it has of the file in memory, so that the next read asks the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if forget:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def rows(self, name):
        lines = [f"{row[0]}|{row[1]}|{row[2]}\n" for row in self.databases[name].execute("SELECT id, text, number FROM item ORDER BY id")]
        return [len(lines), hashlib.sha256("".join(lines).encode()).hexdigest()[:16]]

    def check(self, cold, detail):
        names = sorted(os.listdir(self.folder))
        if cold:
            for name in names:
                self.settle_file(self.path(name), forget=True)
        damage = [f"block {key}" for key, block in self.blocks.items() if zlib.crc32(block) != self.block_crcs[key]]
        if not self.echo(b"?"):
            damage.append("connection")
        for name in DATABASES:
            answer = self.databases[name].execute("PRAGMA integrity_check").fetchone()[0]
            if answer != "ok":
                damage.append(f"{name}: {answer}")
        orphan = os.pread(self.orphan, os.fstat(self.orphan).st_size, 0)
        parts = {
            "blocks": [[key, len(block), zlib.crc32(block)] for key, block in sorted(self.blocks.items())],
            "region": [zlib.crc32(self.region[page * PAGE : (page + 1) * PAGE]) for page in range(REGION_PAGES)],
            "table": [[key, values] for key, values in sorted(self.table.items())],
            "files": [[name, len(value), zlib.crc32(value)] for name in names for value in [self.read(name)]],
            "orphan": [len(orphan), zlib.crc32(orphan)],
            "shared": [zlib.crc32(os.pread(self.shared, SHARED_BYTES, 0)), zlib.crc32(self.shared_map)],
            "wal": self.rows("wal"),
            "rollback": self.rows("rollback"),
            "open": [self.databases[name].in_transaction for name in DATABASES],
        }
        state = {"applied": self.applied, "operations": self.operations, "chain": self.chain, "echoes": self.echoes}
        state.update(parts if detail else {name: digest(part) for name, part in parts.items()})
        observed = {"pid": os.getpid(), "instance": self.instance, "unix_ms": time.time_ns() // 1_000_000}
        return {"state": state, "damage": damage, "observed": observed}

    # ---- commands -------------------------------------------------------------------------------------------------------------

    def answer(self, line):
        match line.split():
            case ["apply", seed, count]:
                return self.apply(int(seed), int(count))
            case ["check", *how] if set(how) <= {"cold", "detail"}:
                return self.check("cold" in how, "detail" in how)
            case ["quit"]:
                os.unlink(self.shared_path)
                return {"quit": True}
            case _:
                return {"error": f"no such command: {line}"}

    def serve(self, listener):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                try:
                    line = connection.makefile("r").readline(COMMAND_BYTES_MAX).strip()
                except OSError:
                    continue  # whoever asked is gone: a pause cut its connection
                try:
                    answer = self.answer(line)
                except Exception as error:  # told to whoever asked, who fails the test with it
                    answer = {"error": repr(error)}
                try:
                    connection.sendall(json.dumps(answer).encode() + b"\n")
                except OSError:
                    pass
            if "quit" in answer:
                return


def main():
    action, folder, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ready, tell = os.pipe()
    if action == "start" and os.fork() != 0:
        os.close(tell)
        with os.fdopen(ready) as pipe:
            said = pipe.read()  # to its end: the program listens, or died
        sys.stdout.write(said)
        sys.exit(0 if said else 1)
    os.close(ready)
    if action == "start":
        os.setsid()
        log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nowhere = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.dup2(log, 2)
    listener = socket.create_server(("127.0.0.1", port), backlog=16)
    program = Program(folder)
    said = f"listening on {listener.getsockname()[1]}\n"
    os.write(tell, said.encode())
    os.close(tell)
    if action == "start":
        os.dup2(2, 1)
    else:
        print(said, end="", flush=True)
    program.serve(listener)


if __name__ == "__main__":
    main()
