import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Template, type LogEntry, type TemplateClass } from "e2b";
import { afterAll, beforeAll } from "vitest";

/** Files that templates of these tests copy: of several modes, with links, and some that are to be left out. */
export function useContext(): () => string {
  let folder: string | undefined;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "roost-e2b-context-"));
    await mkdir(join(folder, "site/deep"), { recursive: true });
    await writeFile(join(folder, "site/index.html"), "hello from a template\n");
    await writeFile(join(folder, "site/tool"), "#!/bin/sh\necho tool\n");
    await chmod(join(folder, "site/tool"), 0o750);
    await symlink("index.html", join(folder, "site/link"));
    await symlink("../index.html", join(folder, "site/deep/up"));
    await writeFile(join(folder, "site/.hidden"), "hidden\n");
    await writeFile(join(folder, "site/notes.ignored"), "left out by an option\n");
    await writeFile(join(folder, "site/secret.env"), "left out by .dockerignore\n");
    await writeFile(join(folder, ".dockerignore"), "# not for templates\nsite/*.env\n");
    await writeFile(join(folder, "one.txt"), "one\n");
    await writeFile(join(folder, "two.txt"), "two\n");
  });
  afterAll(async () => {
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  });
  return () => {
    if (folder === undefined) throw new Error("the context was not made");
    return folder;
  };
}

export interface BuildLogs {
  readonly entries: LogEntry[];
  readonly onBuildLogs: (entry: LogEntry) => void;
  /** Messages that begin with `beginning`, in their order */
  readonly lines: (beginning: string) => string[];
}

export function collectLogs(): BuildLogs {
  const entries: LogEntry[] = [];
  return {
    entries,
    onBuildLogs: (entry) => void entries.push(entry),
    lines: (beginning) => entries.map(({ message }) => message).filter((message) => message.startsWith(beginning)),
  };
}

/** Where this is called: `file.ts:<line>:`, as it reads in stack traces. */
export function placeHere(): string {
  const caller = new Error("here").stack?.split("\n")[2];
  const [place] = /[^/]+:\d+:(?=\d+\)?$)/.exec(caller ?? "") ?? [];
  if (place === undefined) throw new Error(`no place in ${caller}`);
  return place;
}

/** What `kitchenSink` runs in its memory; it says which start of it that is. */
export const serverPort = 8000;

/** A template that does all that the builder can, in few steps. `version`: a variable that changes no layer. */
export function kitchenSink(fileContextPath: string, version: string): TemplateClass {
  return Template({ fileContextPath, fileIgnorePatterns: ["**/*.ignored"] })
    .fromBaseImage()
    .copy("site", "kept")
    .copy("site", "resolved", { resolveSymlinks: true })
    .copy(["one.txt", "two.txt"], "both/", { mode: 0o640 })
    .copyItems([{ src: "*.txt", dest: "/srv/pattern/", user: "root", mode: 0o604 }])
    .copy("one.txt", "plain.txt", { gzip: false })
    .runCmd(["id -un > ran-as", "pwd > ran-in", "echo printed-by-a-step"])
    .makeDir("/srv/made", { mode: 0o711, user: "root" })
    .runCmd("id -un > /srv/ran-as-root; echo a > /srv/old; touch /srv/gone", { user: "root" })
    .rename("/srv/old", "/srv/new name", { user: "root" })
    .remove(["/srv/gone"], { force: true, user: "root" })
    .makeSymlink("/srv/new name", "/srv/symlink", { user: "root" })
    .setEnvs({ GREETING: "hello", FIXED: "it's $HOME" })
    .setEnvs({ BOTH: "$GREETING there" })
    .setUser("builder")
    .setWorkdir("/srv/site")
    .runCmd('echo "$BOTH" > both; id -un > user; pwd > folder; touch /srv/forbidden 2> denied || echo yes > denied')
    .setEnvs({ VERSION: version })
    .setStartCmd(
      `cat /proc/sys/kernel/random/uuid > started; id -un > started-as; exec python3 -m http.server ${serverPort}`,
      `curl -fsS http://localhost:${serverPort}/started`,
    );
}
/** Of it, those that make a layer, as the log tells them */
export const kitchenSinkLayers = 13;
