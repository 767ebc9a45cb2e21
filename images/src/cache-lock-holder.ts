// A process of its own for cache-lock.test.ts: takes the lock, says so, and keeps it until it is killed.
import { must } from "@roost/kit";

import { lockCache } from "./cache-lock.ts";

await lockCache(must(process.argv[2], "lock file"));
process.send?.("held");
setInterval(() => {}, 60_000);
