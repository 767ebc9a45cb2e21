import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";

import { imageSetFileName, imageSetSchema, PlatformError, type ImageSet } from "@roost/contract";

export interface TemplateImages {
  readonly template: string;
  readonly digest: string;
  /** Size of the guest's disk in `MiB` unless more is asked for */
  readonly diskSizeMib: number;
  /** Absolute paths */
  readonly base: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly agentDisk: string;
  readonly kernelVersion: string;
  readonly agentVersion: string;
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

  async template(name: string): Promise<TemplateImages> {
    const images = await this.images();
    const template = Object.hasOwn(images.templates, name) ? images.templates[name] : undefined;
    if (template === undefined) {
      const known = Object.keys(images.templates).sort();
      throw new PlatformError("template_not_found", `there is no template '${name}'; this host has ${known.join(", ") || "none"}`);
    }
    const absolute = (file: { readonly path: string }) => join(this.#folder, file.path);
    return {
      template: name,
      digest: template.digest,
      diskSizeMib: template.diskSizeMib,
      base: absolute(template),
      kernel: absolute(images.kernel),
      initramfs: absolute(images.initramfs),
      agentDisk: absolute(images.agentDisk),
      kernelVersion: images.kernel.version,
      agentVersion: images.agentDisk.agentVersion,
    };
  }
}
