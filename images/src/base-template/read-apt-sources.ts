import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { ImageBuildError } from "../image-build-error.ts";
import { formatSources, parseDeb822Sources, parseOneLineSources, selectDebianSources, type AptSource } from "./apt-sources.ts";

/** Debian's sources as this machine has them configured, mirrors and all, in the one-line format. */
export async function readDebianSources(aptFolder: string, codename: string): Promise<string> {
  const sources: AptSource[] = [];
  const list = await readFile(join(aptFolder, "sources.list"), "utf8").catch(() => ""); // newer installations have none
  sources.push(...parseOneLineSources(list));
  const folder = join(aptFolder, "sources.list.d");
  for (const name of (await readdir(folder).catch(() => [])).sort()) {
    if (name.endsWith(".list")) sources.push(...parseOneLineSources(await readFile(join(folder, name), "utf8")));
    if (name.endsWith(".sources")) sources.push(...parseDeb822Sources(await readFile(join(folder, name), "utf8")));
  }
  const selected = selectDebianSources(sources, codename);
  if (!selected.some(({ suite }) => suite === codename)) {
    throw new ImageBuildError(`${aptFolder} has no source of Debian ${codename} (main), from which the base template is made`);
  }
  return formatSources(selected);
}

/** The release this machine runs, such as `bookworm`. */
export async function readCodename(osReleaseFile = "/etc/os-release"): Promise<string> {
  const codename = /^VERSION_CODENAME="?([a-z]+)"?$/m.exec(await readFile(osReleaseFile, "utf8"))?.[1];
  if (codename === undefined) throw new ImageBuildError(`${osReleaseFile} has no VERSION_CODENAME; the images are built on Debian`);
  return codename;
}
