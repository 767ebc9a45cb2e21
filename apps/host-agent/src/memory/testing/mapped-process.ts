import { spawn, type ChildProcessByStdio } from "node:child_process";
import { createInterface, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";

/**
 * Support for tests: a process that maps a file privately, as a VMM maps guest memory, and does to it what it is told. Reads `command page count
 * value` from standard input, one a line, and answers each with a line.
 */
const program = `
import mmap, os, sys, hashlib, ctypes
path, shape = sys.argv[1], sys.argv[2]
size = os.path.getsize(path)
file = open(path, "rb")
rw = mmap.PROT_READ | mmap.PROT_WRITE
maps = []
if shape == "shared": maps = [mmap.mmap(os.open(path, os.O_RDWR), size, mmap.MAP_SHARED, rw)]
elif shape == "readonly": maps = [mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ)]
elif shape == "half": maps = [mmap.mmap(file.fileno(), size // 2, mmap.MAP_PRIVATE, rw)]
elif shape != "none": maps = [mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, rw) for _ in range(2 if shape == "twice" else 1)]
memory = maps[0] if maps else None
print("ready", flush=True)
for line in sys.stdin:
    command, page, count, value = line.split()
    start, end = int(page) * 4096, (int(page) + int(count)) * 4096
    answer = "done"
    if command == "write": memory[start:end] = bytes([int(value)]) * (end - start)
    elif command == "random": memory[start:end] = os.urandom(end - start)
    elif command == "read": answer = hashlib.sha256(memory[start:end]).hexdigest()
    elif command == "hide":
        # another kind of advice for some pages makes the kernel keep the mapping in pieces
        memory.madvise(mmap.MADV_RANDOM, start, end - start)
    elif command == "pageout": memory.madvise(21, start, end - start)
    print(answer, flush=True)
`;

export type MappingShape = "private" | "shared" | "readonly" | "half" | "twice" | "none";

export class MappedProcess implements AsyncDisposable {
  readonly pid: number;
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  private constructor(child: ChildProcessByStdio<Writable, Readable, null>, pid: number) {
    this.#child = child;
    this.pid = pid;
    this.#reader = createInterface(child.stdout);
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  static async start(path: string, shape: MappingShape = "private"): Promise<MappedProcess> {
    const child = spawn("python3", ["-c", program, path, shape], { stdio: ["pipe", "pipe", "inherit"] });
    if (child.pid === undefined) throw new Error("python3 does not start");
    const process = new MappedProcess(child, child.pid);
    await process.#line();
    return process;
  }

  async write(page: number, value: number, count: number = 1): Promise<void> {
    await this.#do("write", page, count, value);
  }

  async writeRandom(page: number, count: number): Promise<void> {
    await this.#do("random", page, count, 0);
  }

  /** SHA-256 of some pages, in hex; makes them present. */
  async read(page: number, count: number = 1): Promise<string> {
    return this.#do("read", page, count, 0);
  }

  /** Makes the kernel keep the mapping in pieces. */
  async split(page: number): Promise<void> {
    await this.#do("hide", page, 1, 0);
  }

  /** Asks the kernel to move pages to swap. */
  async pageOut(page: number, count: number): Promise<void> {
    await this.#do("pageout", page, count, 0);
  }

  async end(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once("close", resolve));
    this.#reader.close();
    this.#child.kill("SIGKILL");
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await this.end();
  }

  async #do(command: string, page: number, count: number, value: number): Promise<string> {
    this.#child.stdin.write(`${command} ${page} ${count} ${value}\n`);
    return this.#line();
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error("the mapped process ended");
    return value;
  }
}
