import { createRequire, syncBuiltinESMExports } from "node:module";

/** Inserts sandboxes for ever, telling its parent of each and how often data was forced to disk; ends by being killed. */

const fs = createRequire(import.meta.url)("node:fs") as { fsyncSync: (descriptor: number) => void };
let fsyncs = 0;
const fsyncSync = fs.fsyncSync;
fs.fsyncSync = (descriptor) => {
  fsyncs += 1;
  fsyncSync(descriptor);
};
syncBuiltinESMExports();

const [{ newSandboxId }, { silentLogger }, { openDatabase }, { insertSandbox }, { plainSandbox }] = await Promise.all([
  import("@roost/contract"),
  import("@roost/kit"),
  import("../db/database.ts"),
  import("../db/sandboxes.ts"),
  import("./plain-sandbox.ts"),
]);

const database = await openDatabase({ kind: "folder", path: process.argv[2] ?? "" }, silentLogger);
fsyncs = 0;
for (;;) {
  const { id } = await insertSandbox(database.db, {
    ...plainSandbox,
    id: newSandboxId(),
    hostId: "host-1",
    timeoutSec: 60,
    timeCreated: new Date(),
  });
  process.send?.({ id, fsyncs });
  await new Promise((resolve) => setImmediate(resolve));
}
