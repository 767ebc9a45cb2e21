import { randomBytes } from "node:crypto";
import { chmod, mkdir, readdir, readFile, readlink, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
let id: string;
/** The sandbox's home, on this machine. */
let home: string;
beforeEach(async () => {
  cli = await TestCli.start();
  ({ id, home } = await cli.sandbox());
});
afterEach(() => cli[Symbol.asyncDispose]());

async function copy(from: string, to: string, input: Buffer | string = "") {
  const result = await cli.run(["cp", from, to], { input });
  expect(result.stderr).toBe("");
  expect(result.exitCode).toBe(0);
  return result.stdout;
}

describe("files", () => {
  test("go up and down byte for byte", async () => {
    const data = randomBytes(3_000_000);
    await writeFile(join(cli.folder, "data"), data);
    await copy("data", `${id}:`);
    expect((await readFile(join(home, "data"))).equals(data)).toBe(true);
    await copy(`${id}:data`, "back");
    expect((await readFile(join(cli.folder, "back"))).equals(data)).toBe(true);
    expect((await readdir(cli.folder)).sort()).toEqual(["back", "data"]);
  });

  test("into a folder that is there, or to a name of their own", async () => {
    await mkdir(join(home, "there"));
    await writeFile(join(cli.folder, "a"), "1");
    await copy("a", `${id}:there`);
    await copy("a", `${id}:new/name`);
    await copy("a", `${id}:made/`);
    expect(await readFile(join(home, "there/a"), "utf8")).toBe("1");
    expect(await readFile(join(home, "new/name"), "utf8")).toBe("1");
    expect(await readFile(join(home, "made/a"), "utf8")).toBe("1");
    await mkdir(join(cli.folder, "local"));
    await copy(`${id}:there/a`, "local");
    expect(await readFile(join(cli.folder, "local/a"), "utf8")).toBe("1");
  });

  test("stay executable both ways", async () => {
    await writeFile(join(cli.folder, "tool"), "#!/bin/sh\n");
    await chmod(join(cli.folder, "tool"), 0o755);
    await copy("tool", `${id}:tool`);
    expect((await stat(join(home, "tool"))).mode & 0o100).toBe(0o100);
    await copy(`${id}:tool`, "back");
    expect((await stat(join(cli.folder, "back"))).mode & 0o100).toBe(0o100);
  });

  test("- is standard input and standard output", async () => {
    const data = randomBytes(100_000);
    await copy("-", `${id}:from-stdin`, data);
    expect((await readFile(join(home, "from-stdin"))).equals(data)).toBe(true);
    expect((await copy(`${id}:from-stdin`, "-")).equals(data)).toBe(true);
  });

  test("--json tells what was copied", async () => {
    await writeFile(join(cli.folder, "a"), "12345");
    const up = await cli.run(["cp", "--json", "a", `${id}:b`]);
    expect(JSON.parse(up.stdout.toString())).toEqual({ from: "a", to: `${id}:${home}/b`, files: 1, bytes: 5 });
  });

  test("what is not there is an error, and nothing half-copied stays", async () => {
    expect((await cli.run(["cp", "nothing", `${id}:x`])).stderr).toContain("cannot read nothing");
    expect((await cli.run(["cp", `${id}:nothing`, "x"])).exitCode).toBe(1);
    cli.api.handlers.http.statFile = () => ({
      entry: {
        name: "x",
        path: "/x",
        type: "file",
        size: 1000,
        mode: 0o644,
        permissions: "",
        owner: "",
        group: "",
        modified_at: 0,
        symlink_target: null,
        metadata: {},
      },
    });
    cli.api.handlers.http.readFile = ({ response }) => {
      response.writeHead(200, { "content-length": 1000 });
      response.write("some");
      setTimeout(() => response.destroy(), 10);
    };
    const broken = await cli.run(["cp", `${id}:x`, "x"]);
    expect(broken.exitCode).toBe(1);
    expect(broken.stderr).toContain("the connection ended before the whole answer had come");
    expect(await readdir(cli.folder)).toEqual([]);
  });
});

describe("folders", () => {
  beforeEach(async () => {
    const project = join(cli.folder, "project");
    await mkdir(join(project, "src/deep"), { recursive: true });
    await writeFile(join(project, "src/deep/a b.txt"), "text");
    await writeFile(join(project, "run"), "#!/bin/sh\n", { mode: 0o755 });
    await writeFile(join(project, "big"), Buffer.alloc(2_000_000, 7));
    await mkdir(join(project, "empty"));
    await symlink("src/deep", join(project, "short"));
  });

  async function expectProject(folder: string): Promise<void> {
    expect((await readdir(folder)).sort()).toEqual(["big", "empty", "run", "short", "src"]);
    expect(await readFile(join(folder, "src/deep/a b.txt"), "utf8")).toBe("text");
    expect((await stat(join(folder, "run"))).mode & 0o111).toBe(0o111);
    expect((await readFile(join(folder, "big"))).equals(Buffer.alloc(2_000_000, 7))).toBe(true);
    expect(await readlink(join(folder, "short"))).toBe("src/deep");
  }

  test("go up and down with modes and links", async () => {
    await copy("project", `${id}:`);
    await expectProject(join(home, "project"));
    await copy("project", `${id}:other/name`);
    await expectProject(join(home, "other/name"));
    await copy("project/.", `${id}:other`);
    await expectProject(join(home, "other/name"));
    expect(await readdir(join(home, "other"))).toContain("run");

    await copy(`${id}:project`, "back");
    await expectProject(join(cli.folder, "back"));
    await copy(`${id}:project`, "back");
    await expectProject(join(cli.folder, "back/project"));
    await mkdir(join(cli.folder, "flat"));
    await copy(`${id}:project/.`, "flat");
    await expectProject(join(cli.folder, "flat"));
  });

  test("names with a leading dash or a tilde are names", async () => {
    await copy("project", `${id}:-odd`);
    await expectProject(join(home, "-odd"));
    await copy("project", `${id}:~/tilde`);
    await expectProject(join(home, "tilde"));
    await copy(`${id}:-odd`, "back");
    await expectProject(join(cli.folder, "back"));
  });

  test("a folder to - is a tar archive", async () => {
    await copy("project", `${id}:`);
    const archive = await copy(`${id}:project`, "-");
    await copy("-", `${id}:archive.tar`, archive);
    const listed = await cli.run(["exec", id, "tar", "-tf", "archive.tar"]);
    expect(listed.stdout.toString()).toContain("./src/deep/a b.txt");
  });

  test("a hostile archive writes nothing outside and the copy fails", async () => {
    await mkdir(join(home, "bait"));
    await writeFile(join(home, "tar"), `#!/bin/sh\ncd "${home}" && exec /bin/tar -cPf - -C bait --transform=s,^,../../evil/, .\n`, {
      mode: 0o755,
    });
    const { record } = await cli.api.sandboxes.create({ envs: { PATH: `${home}:/usr/bin:/bin` } });
    const result = await cli.run(["cp", `${record.id}:${home}/bait`, "bait"]);
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toContain("wants to be outside the destination");
    expect(await readdir(cli.folder)).not.toContain("evil");
  });

  test("a tar that fails tells why", async () => {
    await writeFile(join(home, "file"), "in the way");
    const result = await cli.run(["cp", "project", `${id}:file/below`]);
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toContain("copying to file/below failed");
  });
});
