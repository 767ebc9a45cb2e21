import { expect, test } from "vitest";

import { readConfig, readDocument } from "./manifest.ts";

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const entry = (letter: string, platform?: Record<string, string>) => ({
  digest: digest(letter),
  size: 1,
  ...(platform === undefined ? {} : { platform }),
});
const unusable = (text: RegExp) =>
  expect.objectContaining({ code: "image_unusable", message: expect.stringMatching(text) as string }) as Error;

test("of an index the manifest for linux/amd64 is taken", () => {
  const index = (...manifests: object[]) => JSON.stringify({ manifests });
  const arm = entry("1", { os: "linux", architecture: "arm64" });
  const v3 = entry("2", { os: "linux", architecture: "amd64", variant: "v3" });
  const plain = entry("3", { os: "linux", architecture: "amd64" });
  const attestation = entry("4", { os: "unknown", architecture: "unknown" });
  const chosen = (text: string) => {
    const document = readDocument(text);
    return document.kind === "index" ? document.manifest.digest : undefined;
  };
  expect(chosen(index(arm, v3, plain, attestation))).toBe(digest("3"));
  expect(chosen(index(arm, v3))).toBe(digest("2"));
  expect(chosen(index(entry("5")))).toBe(digest("5"));
  expect(() => readDocument(index(arm, attestation))).toThrow(unusable(/linux\/arm64/));
  expect(() => readDocument(index(entry("5"), entry("6")))).toThrow(unusable(/not for linux\/amd64/));
});

test("what is no image is told apart", () => {
  expect(() => readDocument("{")).toThrow(unusable(/JSON/));
  expect(() => readDocument("{}")).toThrow(unusable(/manifest/));
  expect(() => readDocument('{"schemaVersion":1,"fsLayers":[]}')).toThrow(unusable(/newer client/));
  const layers = Array.from({ length: 600 }, () => entry("1"));
  expect(() => readDocument(JSON.stringify({ config: entry("2"), layers }))).toThrow(unusable(/600 layers/));
  const config = { os: "linux", architecture: "amd64", rootfs: { diff_ids: [digest("1")] } };
  expect(() => readConfig(JSON.stringify({ ...config, rootfs: undefined }), { layers: [] })).toThrow(unusable(/container image/));
  expect(() => readConfig(JSON.stringify({ ...config, os: "windows" }), { layers: [] })).toThrow(unusable(/windows\/amd64/));
  expect(() => readConfig(JSON.stringify(config), { layers: [] })).toThrow(unusable(/other layers/));
});

test("of a configuration what nobody could use is left out", () => {
  const text = JSON.stringify({
    os: "linux",
    architecture: "amd64",
    rootfs: { diff_ids: [] },
    config: { User: "u".repeat(100), WorkingDir: "relative", Env: ["A=1", "=x", "B", "C=a\0b"], Cmd: null, ExposedPorts: { "80/tcp": {} } },
  });
  expect(readConfig(text, { layers: [] }).config).toEqual({
    user: "",
    workdir: "",
    envs: { A: "1", B: "" },
    entrypoint: [],
    cmd: [],
    exposedPorts: ["80/tcp"],
  });
});
