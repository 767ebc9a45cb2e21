import { recipeSchema } from "@roost/contract";
import { expect, test } from "vitest";

import { credentialsFromE2b, recipeFromE2b, stepToE2b } from "./recipe-from-e2b.ts";
import { startBuildSchema } from "./template-schemas.ts";

const hash = "ab".repeat(32);
const recipe = (body: object) => recipeFromE2b(startBuildSchema.parse(body));
const builder = [
  { kind: "user", name: "user" },
  { kind: "workdir", path: "/home/user" },
];

test("an image is built in as `user` in its home; a template goes on as it is", () => {
  expect(recipe({ fromImage: "debian:12" })).toMatchObject({ from: { image: "debian:12" }, steps: builder, force: false });
  expect(recipe({ fromTemplate: "mine:v1", force: true })).toMatchObject({ from: { template: "mine:v1" }, steps: [], force: true });
  for (const [name, own] of [
    ["Team/mine", "team/mine"],
    ["mine:default", "mine"],
    ["team/mine:default", "team/mine"],
  ]) {
    expect(recipe({ fromTemplate: name }).from).toEqual({ template: own });
  }
  for (const name of ["e2bdev/base", "e2bdev/base:latest", "docker.io/e2bdev/base"]) {
    expect(recipe({ fromImage: name })).toMatchObject({ from: { template: "base" }, steps: builder });
  }
});

test("each step of the builder is one of the recipe", () => {
  const steps = [
    { type: "RUN", args: ["apt-get update", "root"], force: true },
    { type: "RUN", args: ["whoami"] },
    { type: "COPY", args: ["src/*", "/app/", "", ""], filesHash: hash },
    { type: "COPY", args: ["a", "b", "root:staff", "0755"], filesHash: hash, force: true, forceUpload: true },
    { type: "ENV", args: ["A", "1", "B", ""] },
    { type: "WORKDIR", args: ["/app"] },
    { type: "USER", args: ["root"] },
  ];
  expect(recipe({ fromTemplate: "mine", steps, startCmd: "serve", readyCmd: "curl localhost" })).toEqual({
    from: { template: "mine" },
    steps: [
      { kind: "run", command: "apt-get update", user: "root", force: true },
      { kind: "run", command: "whoami" },
      { kind: "copy", files: hash, source: "src/*", destination: "/app/" },
      { kind: "copy", files: hash, source: "a", destination: "b", user: "root:staff", mode: "0755", force: true },
      { kind: "env", envs: { A: "1", B: "" } },
      { kind: "workdir", path: "/app" },
      { kind: "user", name: "root" },
    ],
    stages: [],
    start_command: "serve",
    ready_command: "curl localhost",
    force: false,
  });
});

test.each([
  [{}, "fromImage or fromTemplate is missing"],
  [{ fromImage: "a", fromTemplate: "b" }, "not both"],
  [{ fromImage: "https://example.org/x" }, "image reference"],
  [{ fromTemplate: ":v1" }, "template name"],
  [{ fromImage: "a", steps: [{ type: "RUN" }] }, "steps.0: RUN needs a command"],
  [
    {
      fromImage: "a",
      steps: [
        { type: "RUN", args: ["a"] },
        { type: "COPY", args: ["a"] },
      ],
    },
    "steps.1: COPY needs",
  ],
  [{ fromImage: "a", steps: [{ type: "COPY", args: ["a", "b"] }] }, "filesHash"],
  [{ fromImage: "a", steps: [{ type: "COPY", args: ["a", "b"], filesHash: "x" }] }, "SHA-256"],
  [{ fromImage: "a", steps: [{ type: "COPY", args: ["a", "b", "", "999"], filesHash: hash }] }, "octal"],
  [{ fromImage: "a", steps: [{ type: "ENV", args: ["A"] }] }, "pairs"],
  [{ fromImage: "a", steps: [{ type: "WORKDIR" }] }, "folder"],
  [{ fromImage: "a", steps: [{ type: "USER", args: [""] }] }, "name of a user"],
  [{ fromImage: "a", steps: [{ type: "EXPOSE", args: ["80"] }] }, "steps.0: EXPOSE is not known"],
])("%j is refused", (body, message) => {
  expect(() => recipe(body)).toThrow(expect.objectContaining({ code: "request_invalid", message: expect.stringContaining(message) }));
});

test("credentials of each kind", () => {
  expect(credentialsFromE2b(undefined)).toBeUndefined();
  expect(credentialsFromE2b({ type: "registry", username: "u", password: "p" })).toEqual({ type: "basic", username: "u", password: "p" });
  expect(credentialsFromE2b({ type: "gcp", serviceAccountJson: "{}" })).toEqual({ type: "gcp", service_account_json: "{}" });
  expect(credentialsFromE2b({ type: "aws", awsAccessKeyId: "a", awsSecretAccessKey: "s", awsRegion: "r" })).toEqual({
    type: "aws",
    access_key_id: "a",
    secret_access_key: "s",
    region: "r",
  });
});

test("steps are told as the caller counts them: from 1, without those that were not written", () => {
  const steps = [{ type: "RUN", args: ["a"] }];
  const [image, template, base, none] = [
    recipe({ fromImage: "a", steps }),
    recipe({
      fromTemplate: "mine",
      steps: [
        { type: "USER", args: ["user"] },
        { type: "WORKDIR", args: ["/home/user"] },
      ],
    }),
    recipe({ fromTemplate: "base", steps }),
    null,
  ];
  expect(["base", "0", "1", "2", "finalize", null].map((step) => stepToE2b(step, image))).toEqual([
    "base",
    "base",
    "base",
    "1",
    "finalize",
    undefined,
  ]);
  expect(["0", "1"].map((step) => stepToE2b(step, template))).toEqual(["1", "2"]);
  expect(stepToE2b("2", base)).toBe("1");
  expect(stepToE2b("0", none)).toBe("1");
  expect(stepToE2b("stage first 3", image)).toBe("base");
  const native = recipeSchema.parse({ from: { image: "a" }, steps: [{ kind: "run", command: "x" }] });
  expect(stepToE2b("0", native)).toBe("1");
});
