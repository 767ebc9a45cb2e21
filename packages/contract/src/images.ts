import { z } from "zod";

const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const imageFileSchema = z.object({
  /** Relative to the folder of `images.json` */
  path: z.string(),
  digest: digestSchema,
});

/** `images.json` in the image cache: the images that new sandboxes start with. Replaced as a whole. */
export const imageSetSchema = z.object({
  formatVersion: z.literal(1),
  /** What the VMM boots, and its release as `uname -r` says */
  kernel: imageFileSchema.extend({ version: z.string() }),
  initramfs: imageFileSchema,
  agentDisk: imageFileSchema.extend({ agentVersion: z.string() }),
  templates: z.record(z.string(), imageFileSchema.extend({ diskSizeMib: z.int().positive() })),
});
export type ImageSet = z.infer<typeof imageSetSchema>;

export const imageSetFileName = "images.json";
