import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, chmod, mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";

import { syncFolder } from "@roost/kit";

import type { HeldImage } from "../images/held-images.ts";
import type { ImageCatalog } from "../images/image-catalog.ts";
import { syncFile } from "../memory/file-io.ts";

const suffix = ".img";

/**
 * Images below saved sandboxes that came with them, because this host had none of the kind: the raw disk of a template, an agent disk. `<stateDir>/moved-images/<sha-256>.img`, named by
 * content that was read when it came, so that whoever sent one can be nobody's undoing but its own sandbox's.
 */
export class MovedImages {
  readonly #folder: string;
  readonly #images: ImageCatalog;
  readonly #imported: () => readonly HeldImage[];

  constructor(folder: string, images: ImageCatalog, imported: () => readonly HeldImage[]) {
    this.#folder = folder;
    this.#images = images;
    this.#imported = imported;
  }

  /** Path of an image with these bytes, wherever it is from; undefined: this host has none. */
  async find(digest: string): Promise<string | undefined> {
    const { agentDisk } = await this.#images.boot();
    const known = [agentDisk, ...(await this.#images.bases()), ...this.#imported()].find((image) => image.digest === digest);
    for (const path of [known?.path, this.#path(digest)]) if (path !== undefined && (await exists(path))) return path;
    return undefined;
  }

  /** Takes a whole file in; rejects where its bytes are others. Answers its path from now on. */
  async take(path: string, digest: string): Promise<string> {
    const actual = await sha256Of(path);
    if (actual !== digest) throw new Error(`has digest ${actual}, not ${digest}`);
    await mkdir(this.#folder, { recursive: true, mode: 0o711 });
    await chmod(path, 0o444);
    await syncFile(path);
    await rename(path, this.#path(digest));
    await syncFolder(this.#folder);
    return this.#path(digest);
  }

  /** At start: those that something here lies on stay. */
  async keepOnly(needed: readonly HeldImage[]): Promise<void> {
    const paths = new Set(needed.map(({ path }) => path));
    for (const name of await readdir(this.#folder).catch((): string[] => [])) {
      const path = join(this.#folder, name);
      if (!paths.has(path)) await rm(path, { force: true });
    }
  }

  #path(digest: string): string {
    return join(this.#folder, `${digest.replace(/^sha256:/, "").replaceAll(/[^0-9a-f]/g, "")}${suffix}`);
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return `sha256:${hash.digest("hex")}`;
}
