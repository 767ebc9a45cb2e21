import process from "node:process";

import { openImporter } from "./open-importer.ts";

// Support for tests: imports an image, and kills itself at the progress report of the given index, or when told to never (-1). Ends with 0 when the image is there.
const [stateDir = "", reference = "", uid = "", index = ""] = process.argv.slice(2);
const importer = await openImporter(stateDir, { uid: Number(uid) });
let count = 0;
const source = { kind: "registry" as const, reference, credentials: { username: "", password: "", token: "" } };
await importer.import({ source, diskSizeMib: 256, refresh: false }, new AbortController().signal, () => {
  if (count === Number(index)) process.kill(process.pid, "SIGKILL");
  count += 1;
});
process.stdout.write(String(count));
await importer.close();
