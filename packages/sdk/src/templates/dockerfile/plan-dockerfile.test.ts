import type { RecipeSource } from "@roost/contract";
import { describe, expect, test } from "vitest";

import type { PlannedStep } from "../recipe-plan.ts";
import { planDockerfile, type DockerfileOptions } from "./plan-dockerfile.ts";

/** Dockerfiles and what they come to. Each expectation is what `docker build` does with the same file, unless it says otherwise. */

const plan = (text: string, options?: DockerfileOptions) => planDockerfile(text, options);
/** Steps of the template's own stage, after a FROM. */
const stepsOf = (text: string, options?: DockerfileOptions): PlannedStep["step"][] =>
  plan(`FROM debian:12\n${text}`, options).main.steps.map(({ step }) => step);
const copy = (sources: string[], destination: string, more: object = {}) => ({
  kind: "local-copy",
  sources,
  inline: [],
  destination,
  user: "root",
  mode: undefined,
  force: false,
  isAdd: false,
  ...more,
});
const run = (command: string) => ({ kind: "run", command });
const sh = (quoted: string) => run(`/bin/sh -c ${quoted}`);

describe("sources", () => {
  const cases: [text: string, from: RecipeSource, options?: DockerfileOptions][] = [
    ["FROM debian", { image: "debian" }],
    ["from debian:12-slim\n", { image: "debian:12-slim" }],
    ["\uFEFFFROM debian\r\nRUN a \\\r\n b\r\n", { image: "debian" }],
    [
      "# syntax=docker/dockerfile:1\n# a comment\n\nFROM localhost:5000/team/app@sha256:abc",
      { image: "localhost:5000/team/app@sha256:abc" },
    ],
    ["FROM --platform=linux/amd64 debian", { image: "debian" }],
    ["FROM --platform=$BUILDPLATFORM debian", { image: "debian" }],
    ["ARG V=12\nFROM debian:$V", { image: "debian:12" }],
    ["ARG V=12\nFROM debian:${V}-slim", { image: "debian:13-slim" }, { buildArgs: { V: "13" } }],
    ["ARG V\nFROM debian:${V:-11}", { image: "debian:11" }],
    ["ARG A=deb\nARG B=${A}ian\nFROM ${B}", { image: "debian" }],
    ["FROM template://base", { template: "base" }],
    ["FROM template://mine:v2", { template: "mine:v2" }],
    ["FROM a AS one\nFROM one", { stage: "one" }],
    ["FROM a AS One\nFROM ONE as two", { stage: "one" }],
    ["FROM a AS one\nFROM b", { image: "b" }],
    ["FROM a AS one\nFROM b AS two", { image: "a" }, { target: "one" }],
    ["FROM a\nFROM b", { image: "a" }, { target: "0" }],
  ];
  test.each(cases)("%j", (text, from, options) => expect(plan(text, options).main.from).toEqual(from));
});

describe("steps", () => {
  const cases: [text: string, steps: object[], options?: DockerfileOptions][] = [
    // RUN
    ["RUN apt-get update", [sh("'apt-get update'")]],
    ["run echo 'a'", [sh("'echo '\\''a'\\'''")]],
    ["RUN a && \\\n    # why\n\n  b \\\n  c", [sh("'a &&   b   c'")]],
    ['RUN ["/bin/echo", "a b", "$HOME"]', [run("/bin/echo 'a b' '$HOME'")]],
    ["RUN [ -d /x ] || mkdir /x", [sh("'[ -d /x ] || mkdir /x'")]],
    ["RUN echo $UNKNOWN ${X:-y} $$", [sh("'echo $UNKNOWN ${X:-y} $$'")]],
    ['SHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN a | b', [run("/bin/bash -o pipefail -c 'a | b'")]],
    ["RUN --mount=type=cache,target=/c a", [sh("a")]],
    ["RUN --network=default a", [sh("a")]],
    ["RUN <<EOF\nline one\n# kept\n$X\nEOF\nRUN b", [sh("'line one\n# kept\n$X\n'"), sh("b")]],
    ["RUN <<-EOF\n\tstripped\n\tEOF", [sh("'stripped\n'")]],
    ["RUN cat <<A <<'B' > /x\na\nA\nb\nB", [sh("'cat <<A <<'\\''B'\\'' > /x\na\nA\nb\nB'")]],
    ["RUN python3 <<EOF\nprint(1)\nEOF", [sh("'python3 <<EOF\nprint(1)\nEOF'")]],
    ["RUN echo $((1<<2)) <<< x", [sh("'echo $((1<<2)) <<< x'")]],
    // ARG: variables of RUN, and of nothing later
    ["ARG A=1\nRUN a", [run("export A=1; /bin/sh -c a")]],
    ["ARG A='x y'\nRUN a", [run("export A='z'\\''s'; /bin/sh -c a")], { buildArgs: { A: "z's" } }],
    ["ARG A B=2\nRUN a", [run("export B=2; /bin/sh -c a")]],
    ["ARG A=1\nENV A=2\nRUN a", [{ kind: "env", envs: { A: "2" } }, sh("a")]],
    ["RUN a\nARG A=1", [sh("a")]],
    ["RUN a", [run("export https_proxy=http://p; /bin/sh -c a")], { buildArgs: { https_proxy: "http://p" } }],
    ["ARG TARGETARCH\nARG TARGETPLATFORM\nENV A=$TARGETARCH P=$TARGETPLATFORM", [{ kind: "env", envs: { A: "amd64", P: "linux/amd64" } }]],
    ["ARG A=1\nARG B=${A}2\nENV C=$B", [{ kind: "env", envs: { C: "12" } }]],
    // ENV
    ["ENV A=1 B=\"two words\" C=a\\ b D='$x'", [{ kind: "env", envs: { A: "1", B: "two words", C: "a b", D: "$$x" } }]],
    ["ENV NAME the old  form", [{ kind: "env", envs: { NAME: "the old  form" } }]],
    ["ENV A=1 \\\n  # c\n  B=2", [{ kind: "env", envs: { A: "1", B: "2" } }]],
    ["ENV PATH=/x:$PATH", [{ kind: "env", envs: { PATH: "/x:${PATH}" } }]],
    ['ENV PATH="${PATH}:/x"', [{ kind: "env", envs: { PATH: "${PATH}:/x" } }]],
    ["ENV A=hello\nENV A=bye B=$A\nENV C=$A", [{ envs: { A: "hello" } }, { envs: { A: "bye", B: "hello" } }, { envs: { C: "bye" } }]],
    ["ENV A=$PATH\nENV B=$A", [{ envs: { A: "${PATH}" } }, { envs: { B: "${A}" } }]],
    ["ENV A=\nENV B=${A:-d} C=${A-d} D=${A:+d} E=${A+d}", [{ envs: { A: "" } }, { envs: { B: "d", C: "", D: "", E: "d" } }]],
    ["ARG X\nENV B=${X:-d} C=${X-d} D=${X:+d} E=$X", [{ envs: { B: "d", C: "d", D: "", E: "" } }]],
    ["ENV A=${LD_LIBRARY_PATH:-}", [{ envs: { A: "${LD_LIBRARY_PATH}" } }]],
    ["ENV A=1\nENV B=\\$A C='$A' D=\"\\$A\" E=a$", [{ envs: { A: "1" } }, { envs: { B: "$$A", C: "$$A", D: "$$A", E: "a$$" } }]],
    // WORKDIR, USER
    ["WORKDIR /a\nWORKDIR b\nWORKDIR ../c", [{ path: "/a" }, { path: "/a/b" }, { path: "/a/c" }]],
    ["WORKDIR b", [{ kind: "workdir", path: "b" }]],
    ["ENV D=/x\nWORKDIR $D/y\nWORKDIR ${E}/z", [{ envs: { D: "/x" } }, { path: "/x/y" }, { path: "/x/y/${E}/z" }]],
    ['WORKDIR "/a b"', [{ kind: "workdir", path: "/a b" }]],
    ["USER app", [{ kind: "user", name: "app" }]],
    ["USER 1000:1000", [{ kind: "user", name: "1000" }]],
    ["ARG U=me\nUSER $U", [{ kind: "user", name: "me" }]],
    ["USER ${NB_UID}", [{ kind: "user", name: "${NB_UID}" }]],
    // COPY, ADD
    ["COPY a b /x/", [copy(["a", "b"], "/x/")]],
    ["COPY . .", [copy(["."], ".")]],
    ["COPY --link *.txt sub/?.md /x/", [copy(["*.txt", "sub/?.md"], "/x/")]],
    ['COPY ["a b", "c", "/x y/"]', [copy(["a b", "c"], "/x y/")]],
    ["COPY --chown=me:us --chmod=755 a /x", [copy(["a"], "/x", { user: "me:us", mode: "755" })]],
    ["ARG S=src\nENV D=/d\nCOPY $S/a $D/", [{ kind: "env", envs: { D: "/d" } }, copy(["src/a"], "/d/")]],
    ["COPY a $HOME/", [copy(["a"], "${HOME}/")]],
    ["COPY a /x$y", [copy(["a"], "/x${y}")]],
    ["COPY <<EOF <<'F.txt' /d/\na\nEOF\n$b\nF.txt", [copy([], "/d/", { inline: [named("EOF", "a\n"), named("F.txt", "$b\n")] })]],
    ['ENV A=1\nCOPY <<EOF /f\n"$A" ${A}\\$A\nEOF', [{ envs: {} }, copy([], "/f", { inline: [named("EOF", '"1" 1\\$A\n')] })]],
    ["ADD a.txt /x/", [copy(["a.txt"], "/x/", { isAdd: true })]],
    // what does nothing
    ["LABEL a=b\nEXPOSE 80\nVOLUME /x\nSTOPSIGNAL 9\nMAINTAINER me\nHEALTHCHECK CMD x\nONBUILD RUN x\nCMD x\nENTRYPOINT y", []],
  ];
  test.each(cases)("%j", (text, steps, options) => expect(stepsOf(text, options)).toMatchObject(steps));
});

const named = (name: string, content: string) => ({ name, content });

test("a here-document with an interpreter of its own is run by it", () => {
  const [step] = stepsOf("RUN <<EOF\n#!/usr/bin/env python3\nprint('x')\nEOF");
  expect(step).toMatchObject({ kind: "run" });
  const { command } = step as { command: string };
  expect(command).toContain("#!/usr/bin/env python3\nprint('\\''x'\\'')\n");
  expect(command).toContain("chmod 0755");
});

test("the escape directive changes what continues a line", () => {
  expect(plan("# escape=`\nFROM a\nRUN b `\n  c\\d").main.steps[0]?.step).toEqual(sh("'b   c\\d'"));
});

describe("stages", () => {
  test("only those that are needed, in order, with images that only --from names", () => {
    const { stages, main } = plan(
      `
FROM golang AS build
RUN go build
FROM scratch AS never
FROM --platform=linux/arm64 x AS neither
RUN --mount=type=ssh y
FROM debian AS files
COPY --from=build /out/* /files/
FROM debian
COPY --from=2 /a /a
COPY --from=files /files /b/ /dest/
COPY --from=busybox:1.36 /bin/busybox /bin/
COPY --from=busybox:1.36 bin/busybox /bin/sh
COPY --from=template://tools --chown=me /opt /opt
ARG D=lib
COPY --from=0 /$D/$E/*.jar /app/
`.replace("--from=2", "--from=3"),
    );
    expect(stages.map(({ name, from }) => [name, from])).toEqual([
      ["build", { image: "golang" }],
      ["files", { image: "debian" }],
      ["image-0", { image: "busybox:1.36" }],
      ["image-1", { template: "tools" }],
    ]);
    expect(main.steps.map(({ step }) => step)).toEqual([
      { kind: "copy-from-stage", stage: "files", source: "/a", destination: "/a", user: "root" },
      { kind: "copy-from-stage", stage: "files", source: "/files", destination: "/dest/", user: "root" },
      { kind: "copy-from-stage", stage: "files", source: "/b/", destination: "/dest/", user: "root" },
      { kind: "copy-from-stage", stage: "image-0", source: "/bin/busybox", destination: "/bin/", user: "root" },
      { kind: "copy-from-stage", stage: "image-0", source: "bin/busybox", destination: "/bin/sh", user: "root" },
      { kind: "copy-from-stage", stage: "image-1", source: "/opt", destination: "/opt", user: "me" },
      { kind: "copy-from-stage", stage: "build", source: "/lib/${E}/*.jar", destination: "/app/", user: "root" },
    ]);
  });

  test("one that begins from another has its variables, its shell and its folder", () => {
    const { main } = plan('FROM a AS x\nARG A=1\nENV B=2\nWORKDIR /w\nSHELL ["/bin/bash", "-c"]\nFROM x\nENV C=$A$B\nWORKDIR v\nRUN c');
    expect(main.steps.map(({ step }) => step)).toEqual([
      { kind: "env", envs: { C: "12" } },
      { kind: "workdir", path: "/w/v" },
      run("export A=1; /bin/bash -c c"),
    ]);
  });

  test("one of its own has nothing of another, but what ARG says before the first FROM can be asked for", () => {
    const { main } = plan("ARG V=7\nARG W=8\nFROM a AS x\nARG A=1\nFROM b\nARG V\nARG W=9\nENV C=$V D=$W E=$A");
    expect(main.steps[0]?.step).toEqual({ kind: "env", envs: { C: "7", D: "9", E: "${A}" } });
  });

  test("names for those without, which nobody else has", () => {
    const { stages, main } = plan("FROM a AS stage-1\nFROM b\nCOPY --from=0 /x /x\nFROM c\nCOPY --from=1 /y /y");
    expect([...stages, main].map(({ name }) => name)).toEqual(["stage-1", "stage-1.2", "stage-2"]);
  });
});

describe("the start command", () => {
  test.each([
    ["", undefined],
    ["CMD npm start", "/bin/sh -c 'npm start'"],
    ['CMD ["npm", "start"]', "npm start"],
    ["CMD a\nCMD b", "/bin/sh -c b"],
    ['ENTRYPOINT ["/entry"]', "/entry"],
    ['ENTRYPOINT ["/entry"]\nCMD ["a b", "$c"]', "/entry 'a b' '$c'"],
    ['CMD ["a"]\nENTRYPOINT ["/entry", "-x"]', "/entry -x a"],
    ['ENTRYPOINT ["/entry"]\nCMD a b', "/entry /bin/sh -c 'a b'"],
    ["ENTRYPOINT run it\nCMD a", "/bin/sh -c 'run it'"],
    ["CMD a\nCMD []", undefined],
    ['ENTRYPOINT x\nENTRYPOINT []\nCMD ["y"]', "y"],
    ['SHELL ["/bin/bash", "-lc"]\nCMD serve', "/bin/bash -lc serve"],
    ["CMD ['a']", "/bin/sh -c '['\\''a'\\'']'"],
  ])("%j", (text, command) => expect(plan(`FROM a\n${text}`).startCommand).toBe(command));

  test("of a stage that the last one begins from, until that has an entrypoint", () => {
    expect(plan('FROM a AS x\nCMD ["c"]\nFROM x').startCommand).toBe("c");
    expect(plan('FROM a AS x\nCMD ["c"]\nFROM x\nENTRYPOINT ["e"]').startCommand).toBe("e");
    expect(plan('FROM a AS x\nENTRYPOINT ["e"]\nFROM x\nCMD ["d"]').startCommand).toBe("e d");
    expect(plan('FROM a AS x\nCMD ["c"]\nFROM b').startCommand).toBeUndefined();
  });
});

describe("what is refused says where, what, and what to write", () => {
  test.each([
    ["", "Dockerfile:1: Dockerfile: it has no FROM; begin it with one such as FROM debian:12-slim"],
    ["RUN a\nFROM b", "Dockerfile:1: RUN: only ARG may stand before the first FROM"],
    ["FROM", "Dockerfile:1: FROM: it says nothing; write FROM image"],
    ["FROM a b c", 'Dockerfile:1: FROM: "a b c" is not understood; write FROM image, or FROM image AS name'],
    ["FROM a AS 1x", "no name of a stage"],
    ["FROM a AS x\nFROM b AS X", "there is a stage x already"],
    ["FROM $V", "Dockerfile:1: FROM: $V is empty"],
    ["FROM scratch", "Dockerfile:1: FROM: scratch is empty"],
    ["FROM --platform=linux/arm64 a", "sandboxes are linux/amd64: leave it out"],
    ["FROM --foo=1 a", "--foo is not supported; accepted: --platform"],
    ["FROM a\nBOGUS x", "Dockerfile:2: BOGUS: there is no such instruction; known are ADD, ARG"],
    ["FROM a\nRUN", "Dockerfile:2: RUN: it says nothing; write RUN a command"],
    ["FROM a\nRUN []", "it runs nothing"],
    ["FROM a\n\nRUN --mount=type=secret,id=x b", "Dockerfile:3: RUN: --mount=type=secret is not supported"],
    ["FROM a\nRUN --mount=source=x,target=y b", "--mount=type=bind is not supported; COPY what it needs"],
    ["FROM a\nRUN --mount=type=ssh b", "no SSH agent"],
    ["FROM a\nRUN --network=none b", "--network=none is not supported"],
    ["FROM a\nRUN --security=insecure b", "--security is not supported; accepted: --mount, --network"],
    ["FROM a\nRUN cat <<EOF\nnever", "has no end; it ends with a line that is EOF"],
    ["FROM a\nARG A.b=1\nRUN x", 'a shell knows no variable "A.b"'],
    ["FROM a\nARG =1", "is no argument; write ARG NAME"],
    ["FROM a\nARG A=$PATH", "the value of $PATH is not known before the build"],
    ["FROM a\nENV A=1 B", '"B" is not NAME=value'],
    ["FROM a\nENV A", "A has no value; write ENV A=value"],
    ["FROM a\nENV A='x", "there is no ' that ends"],
    ['FROM a\nENV A="x', 'there is no " that ends'],
    ["FROM a\nENV A=${B", "is not supported; accepted are ${NAME}"],
    ["FROM a\nENV A=${B:-x", "there is no } that ends"],
    ["FROM a\nENV A=${B#x}", "is not supported; accepted are ${NAME}, ${NAME:-word}"],
    ["FROM a\nENV A=${B:-x}", "asks whether B is set, which only the build knows"],
    ["FROM a\nARG B\nENV A=${B:?missing}", "B must be set: missing"],
    ["FROM a\nWORKDIR ''", "its folder is empty"],
    ["FROM a\nUSER a:b:c", '"a:b:c" is no user'],
    ["FROM a\nSHELL bash -c", 'it takes a JSON list; write SHELL ["/bin/bash"'],
    ["FROM a\nCOPY a", "it needs a source and a destination"],
    ["FROM a\nCOPY a b /x", "2 sources need a folder as destination; write /x/"],
    ["FROM a\nCOPY $HOME/a /x", "the value of $HOME is not known before the build"],
    ["FROM a\nCOPY --chmod=u+x a /x", "write it as an octal number"],
    ["FROM a\nCOPY --chown=:g a /x", "is no owner; write --chown=user"],
    ["FROM a\nCOPY --chown a /x", "--chown has no value"],
    ["FROM a\nCOPY --parents a /x", "--parents is not supported: name the destination"],
    ["FROM a\nCOPY --from=0 a /x", "--from=0 is no earlier stage"],
    ["FROM a AS x\nCOPY --from=x a /x", "--from=x is this stage itself"],
    ["FROM a\nCOPY --from=b <<E /x\nE", "a here-document does not come from another stage"],
    ["FROM a\nCOPY <<a/b /x\na/b", "holds no '/' and none of"],
    ["FROM a\nADD --from=b c d", "--from is not supported; accepted: --chown"],
    ["FROM a\nADD https://example.com/x.tgz /x", "it does not fetch https://example.com/x.tgz; fetch it by RUN curl"],
    ["FROM a\nADD git@github.com:a/b.git /x", "clone it by RUN git clone"],
    ["FROM a\nADD --checksum=sha256:1 b /x", "--checksum is not supported, because ADD takes no URLs"],
    ["FROM a\0", "it holds a NUL"],
  ])("%j", (text, message) => expect(() => plan(text)).toThrow(message));

  test("a stage that is not there", () => {
    expect(() => plan("FROM a AS x", { target: "y", file: "sub/Dockerfile.dev" })).toThrow(
      'sub/Dockerfile.dev:1: Dockerfile: it has no stage "y"; it has x',
    );
  });
});

test("nothing is left out silently", () => {
  const text = `FROM a
LABEL a=b
EXPOSE 80
VOLUME /x
STOPSIGNAL 9
MAINTAINER me
HEALTHCHECK CMD x
ONBUILD RUN x
USER me:us
RUN --mount=type=cache,target=/root/.cache x
RUN ['x']
CMD ['x']
COPY ['a', '/b/']
USER me:me`;
  const { notes } = plan(text, { buildArgs: { NOBODY: "1" } });
  expect(notes.map(({ line, level, keyword }) => `${line} ${level} ${keyword}`)).toEqual([
    "2 warning LABEL",
    "3 note EXPOSE",
    "4 warning VOLUME",
    "5 warning STOPSIGNAL",
    "6 warning MAINTAINER",
    "7 warning HEALTHCHECK",
    "8 warning ONBUILD",
    "9 warning USER",
    "10 warning RUN",
    "11 warning RUN",
    "12 warning CMD",
    "13 warning COPY",
    "1 warning Dockerfile",
  ]);
});
