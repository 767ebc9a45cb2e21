import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { run } from "@roost/kit";

export interface TestLayer {
  /** The layer as it is stored */
  readonly data: Buffer;
  readonly diffId: string;
  readonly mediaType: string;
}

export interface TestImage {
  readonly layers: readonly TestLayer[];
  readonly config?: Record<string, unknown>;
  readonly architecture?: string;
}

export function sha256(data: string | Uint8Array): string {
  return `sha256:${createHash("sha256").update(data).digest("hex")}`;
}

export function gzipLayer(tar: Buffer): TestLayer {
  return { data: gzipSync(tar), diffId: sha256(tar), mediaType: "application/vnd.oci.image.layer.v1.tar+gzip" };
}

export function plainLayer(tar: Buffer): TestLayer {
  return { data: tar, diffId: sha256(tar), mediaType: "application/vnd.oci.image.layer.v1.tar" };
}

export async function zstdLayer(tar: Buffer, scratch: string): Promise<TestLayer> {
  const path = join(scratch, `layer-${sha256(tar).slice(7, 19)}`);
  await writeFile(path, tar);
  await run(["zstd", "-q", "-f", path, "-o", `${path}.zst`]);
  return { data: await readFile(`${path}.zst`), diffId: sha256(tar), mediaType: "application/vnd.oci.image.layer.v1.tar+zstd" };
}

/** A folder's content as a layer, as GNU tar writes it. */
export async function tarOfFolder(folder: string, scratch: string, options: readonly string[]): Promise<Buffer> {
  const path = join(scratch, `${createHash("sha256").update(folder).digest("hex").slice(0, 12)}.tar`);
  await run(["tar", "--numeric-owner", "--sort=name", ...options, "-cf", path, "-C", folder, "."]);
  return readFile(path);
}

/** Writes an OCI layout; returns the digest of the manifest. */
export async function writeLayout(folder: string, image: TestImage): Promise<string> {
  const blobs = join(folder, "blobs/sha256");
  await mkdir(blobs, { recursive: true });
  const put = async (data: string | Buffer, mediaType: string) => {
    const digest = sha256(data);
    await writeFile(join(blobs, digest.slice(7)), data);
    return { mediaType, digest, size: Buffer.byteLength(data) };
  };
  const layers = [];
  for (const layer of image.layers) layers.push(await put(layer.data, layer.mediaType));
  const config = await put(
    JSON.stringify({
      os: "linux",
      architecture: image.architecture ?? "amd64",
      config: image.config ?? {},
      rootfs: { type: "layers", diff_ids: image.layers.map(({ diffId }) => diffId) },
    }),
    "application/vnd.oci.image.config.v1+json",
  );
  const manifest = await put(
    JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config, layers }),
    "application/vnd.oci.image.manifest.v1+json",
  );
  await writeFile(join(folder, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  await writeFile(
    join(folder, "index.json"),
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations: { "org.opencontainers.image.ref.name": "image" } }] }),
  );
  return manifest.digest;
}

export interface RawEntry {
  readonly name: string;
  readonly type?: string;
  readonly data?: string | Buffer;
  readonly link?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly major?: number;
  readonly minor?: number;
  /** Records of a pax header before it */
  readonly pax?: Readonly<Record<string, string | Buffer>>;
}

/** A tar of entries as they are given, however wrong: what no honest program writes. */
export function rawTar(entries: readonly RawEntry[]): Buffer {
  const parts: Buffer[] = [];
  for (const entry of entries) {
    if (entry.pax !== undefined) parts.push(...block({ name: "pax", type: "x", data: paxData(entry.pax) }));
    parts.push(...block(entry));
  }
  return Buffer.concat([...parts, Buffer.alloc(1_024)]);
}

function paxData(records: Readonly<Record<string, string | Buffer>>): Buffer {
  return Buffer.concat(
    Object.entries(records).map(([key, value]) => {
      const rest = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from("\n")]);
      const length = [1, 2, 3, 4, 5].map((digits) => rest.length + digits).find((sum) => sum === rest.length + String(sum).length);
      return Buffer.concat([Buffer.from(String(length)), rest]);
    }),
  );
}

function block(entry: RawEntry): Buffer[] {
  const data = Buffer.from(entry.data ?? "");
  const header = Buffer.alloc(512);
  const octal = (value: number, offset: number, length: number) =>
    header.write(value.toString(8).padStart(length - 1, "0"), offset, "latin1");
  header.write(entry.name, 0, 100, "latin1");
  octal(entry.mode ?? 0o644, 100, 8);
  octal(entry.uid ?? 0, 108, 8);
  octal(entry.gid ?? 0, 116, 8);
  octal(entry.size ?? data.length, 124, 12);
  octal(1_700_000_000, 136, 12);
  header.write(entry.type ?? "0", 156, "latin1");
  header.write(entry.link ?? "", 157, 100, "latin1");
  header.write("ustar\u000000", 257, "latin1");
  octal(entry.major ?? 0, 329, 8);
  octal(entry.minor ?? 0, 337, 8);
  header.fill(0x20, 148, 156);
  header.write(
    `${[...header]
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, "0")}\0 `,
    148,
    "latin1",
  );
  return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
}
