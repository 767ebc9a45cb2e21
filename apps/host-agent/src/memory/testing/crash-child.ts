import process from "node:process";

import { must } from "@roost/kit";

import { crashOperations } from "./crash-operations.ts";
import { ImageFixture } from "./image-fixture.ts";

// Support for tests: does one operation on an image folder, or its recovery, and kills itself at the durable step of the given index.
const [root = "", name = "", what = "", index = ""] = process.argv.slice(2);
const fixture = await ImageFixture.create(root);
const operation = must(
  crashOperations.find((candidate) => candidate.name === name),
  "an operation",
);
let count = 0;
const images = fixture.folder(operation.folder, {
  onStep: () => {
    if (count === Number(index)) process.kill(process.pid, "SIGKILL");
    count += 1;
  },
});
if (what === "recover") await images.recover();
else await operation.run(images, fixture);
