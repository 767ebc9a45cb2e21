import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, test } from "vitest";

import { formatSources, parseDeb822Sources, parseOneLineSources, selectDebianSources } from "./apt-sources.ts";
import { readCodename, readDebianSources } from "./read-apt-sources.ts";

const deb822 = `# Debian
Types: deb deb-src
# a comment between fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.example/node
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
`;

test("deb822 stanzas give one source per address and suite", () => {
  const sources = parseDeb822Sources(deb822);
  expect(sources.map(({ uri, suite }) => `${uri} ${suite}`)).toEqual([
    "http://mirror.example/debian bookworm",
    "http://mirror.example/debian bookworm-updates",
    "http://mirror.example/debian-security bookworm-security",
    "http://mirror.example/debian bookworm-backports",
    "https://vendor.example/node bookworm",
  ]);
});

test("one-line sources are read with and without options", () => {
  expect(
    parseOneLineSources(`
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # trailing
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm-updates main
deb-src http://mirror.example/debian bookworm main
`),
  ).toEqual([
    { uri: "http://mirror.example/debian", suite: "bookworm", components: ["main", "contrib"] },
    {
      uri: "http://mirror.example/debian",
      suite: "bookworm-updates",
      components: ["main"],
      signedBy: "/usr/share/keyrings/debian-archive-keyring.gpg",
    },
  ]);
});

test("backports, other releases and other vendors are left out", () => {
  const selected = selectDebianSources(
    [
      ...parseDeb822Sources(deb822),
      ...parseOneLineSources(
        "deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.example bookworm main\ndeb http://mirror.example/debian trixie main\n",
      ),
    ],
    "bookworm",
  );
  expect(selected.map(({ suite }) => suite)).toEqual(["bookworm", "bookworm-updates", "bookworm-security", "bookworm"]);
  expect(formatSources(selected.slice(0, 1))).toBe(
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main\n",
  );
});

test("this machine's sources are read from both formats", async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-apt-"));
  try {
    await mkdir(join(folder, "sources.list.d"));
    await expect(readDebianSources(folder, "bookworm")).rejects.toThrow("no source of Debian bookworm");
    await writeFile(join(folder, "sources.list"), "deb http://mirror.example/debian bookworm main\n");
    await writeFile(
      join(folder, "sources.list.d/security.sources"),
      "Types: deb\nURIs: http://s.example\nSuites: bookworm-security\nComponents: main\n",
    );
    await writeFile(
      join(folder, "sources.list.d/off.sources.disabled"),
      "Types: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n",
    );
    expect(await readDebianSources(folder, "bookworm")).toBe(
      "deb http://mirror.example/debian bookworm main\ndeb http://s.example bookworm-security main\n",
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("the release is read from os-release", async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-os-"));
  try {
    await writeFile(join(folder, "debian"), 'ID=debian\nVERSION_CODENAME="trixie"\n');
    await writeFile(join(folder, "other"), "ID=arch\n");
    expect(await readCodename(join(folder, "debian"))).toBe("trixie");
    await expect(readCodename(join(folder, "other"))).rejects.toThrow("VERSION_CODENAME");
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
