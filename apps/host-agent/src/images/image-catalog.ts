import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";

import { imageSetFileName, imageSetSchema, PlatformError, type ImageSet } from "@roost/contract";

/** What a guest boots with, whatever its disk. */
export interface BootImages {
  /** Absolute paths */
  readonly kernel: { readonly path: string; readonly digest: string; readonly version: string };
  readonly initramfs: string;
  readonly agentDisk: { readonly path: string; readonly digest: string; readonly version: string };
}

/** A template that was built from packages: a raw disk image. */
export interface BaseTemplate {
  readonly name: string;
  readonly path: string;
  readonly digest: string;
  /** Size of the guest's disk in `MiB` */
  readonly diskSizeMib: number;
}

/** The images that new sandboxes start with; read again when the file was replaced. */
export class ImageCatalog {
  readonly #folder: string;
  #cached: { readonly mtimeNs: bigint; readonly images: ImageSet } | undefined;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async images(): Promise<ImageSet> {
    const path = join(this.#folder, imageSetFileName);
    try {
      const { mtimeNs } = await stat(path, { bigint: true });
      if (this.#cached?.mtimeNs !== mtimeNs) {
        this.#cached = { mtimeNs, images: imageSetSchema.parse(JSON.parse(await readFile(path, "utf8"))) };
      }
      return this.#cached.images;
    } catch (error) {
      throw new PlatformError("template_not_found", "this host has no images yet: make them with `npm run images`", {
        detail: path,
        cause: error,
      });
    }
  }

  async boot(): Promise<BootImages> {
    const { kernel, initramfs, agentDisk } = await this.images();
    return {
      kernel: { path: this.#absolute(kernel), digest: kernel.digest, version: kernel.version },
      initramfs: this.#absolute(initramfs),
      agentDisk: { path: this.#absolute(agentDisk), digest: agentDisk.digest, version: agentDisk.agentVersion },
    };
  }

  async base(name: string): Promise<BaseTemplate | undefined> {
    return (await this.bases()).find((template) => template.name === name);
  }

  async bases(): Promise<BaseTemplate[]> {
    const { templates } = await this.images();
    return Object.entries(templates).map(([name, template]) => ({
      name,
      path: this.#absolute(template),
      digest: template.digest,
      diskSizeMib: template.diskSizeMib,
    }));
  }

  #absolute(file: { readonly path: string }): string {
    return join(this.#folder, file.path);
  }
}
