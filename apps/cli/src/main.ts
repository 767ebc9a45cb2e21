import { processIo } from "./io.ts";
import { flush } from "./output/write.ts";
import { runCli } from "./run-cli.ts";

const io = processIo();
// Writers notice failures themselves (BrokenPipeError); without a listener Node would end with a stack.
for (const stream of [io.stdout, io.stderr]) stream.on("error", () => undefined);

const exitCode = await runCli(process.argv.slice(2), io, (code) => process.exit(code));
await Promise.all([flush(io.stdout), flush(io.stderr)]);
// Not left to the end of the event loop: an unread standard input would keep it alive.
process.exit(exitCode);
