import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { writeFileDurably, type Logger } from "@roost/kit";

import type { Mailer, OutgoingMail } from "./mailer.ts";

/** Mails that are kept; the oldest go */
const keptMax = 200;

/**
 * Where there is no mail server: mails become files that only the operator can read, and the log says where. Their links are secrets, so what the
 * log gets is the name of the file.
 */
export class FileMailer implements Mailer {
  readonly isReal = false;
  readonly #folder: string;
  readonly #log: Logger;

  constructor(folder: string, log: Logger) {
    this.#folder = folder;
    this.#log = log;
  }

  async send({ id, recipient, subject, text }: OutgoingMail): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const path = join(this.#folder, `${Date.now()}-${id}.txt`);
    await writeFileDurably(path, `To: ${recipient}\nSubject: ${subject}\n\n${text}`, { mode: 0o600 });
    this.#log.info({ recipient, subject, path }, "a mail was written to a file; set ROOST_SMTP_URL to have mails sent");
    await this.#forgetOldest();
  }

  close(): void {}

  async #forgetOldest(): Promise<void> {
    const names = (await readdir(this.#folder)).filter((name) => /^\d+-.*\.txt$/.test(name)).sort();
    for (const name of names.slice(0, Math.max(0, names.length - keptMax))) await rm(join(this.#folder, name), { force: true });
  }
}
