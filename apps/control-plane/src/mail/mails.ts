import { randomUUID } from "node:crypto";

import { hour, minute, second, ServiceLoop, withDeadline, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { claimMails, deleteMail, insertMail, noteMailFailure, type MailRow } from "../db/mails.ts";
import type { Mailer } from "./mailer.ts";
import { createMailTexts, type MailText, type MailTexts } from "./texts.ts";

/** Time between two looks for mails that are due in `ms`, when nobody says that there are some */
const lookIntervalMs = 30 * second;
/** Longest that sending one may take in `ms` */
const sendTimeoutMs = 1 * minute;
/** A claimed mail is tried by others after this in `ms`: whoever claimed it has died */
const leaseMs = 5 * minute;
/** Mails claimed at once: they are sent one after the other, all within the lease */
const claimedMax = 4;
/** Wait after a failure in `ms`; doubles with each further one, up to the longest */
const retryMsMin = 30 * second;
const retryMsMax = 2 * hour;
/** After these, about a day, a mail is given up */
const attemptsMax = 18;
/** Characters of an error that are kept */
const errorLengthMax = 300;

export interface MailsDependencies {
  readonly db: Db;
  readonly mailer: Mailer;
  readonly publicUrl: string;
  readonly log: Logger;
  readonly now?: () => Date;
}

/**
 * Mails on their way. A mail is a row, written in the transaction of what it tells of, so neither a crash nor a mail server that is away loses it;
 * one that was sent when the control plane died is sent again. Rows hold secrets, and are deleted as soon as they are sent.
 */
export class Mails {
  readonly texts: MailTexts;
  readonly #db: Db;
  readonly #mailer: Mailer;
  readonly #log: Logger;
  readonly #now: () => Date;
  #loop: ServiceLoop | undefined;

  constructor({ db, mailer, publicUrl, log, now = () => new Date() }: MailsDependencies) {
    this.texts = createMailTexts(publicUrl);
    this.#db = db;
    this.#mailer = mailer;
    this.#log = log;
    this.#now = now;
  }

  /** Whether mails get to people. */
  get isReal(): boolean {
    return this.#mailer.isReal;
  }

  /** In a transaction; call `poke` when it is over. */
  async enqueue(transaction: Db, recipient: string, text: MailText): Promise<void> {
    await insertMail(transaction, { id: randomUUID(), recipient, ...text }, this.#now());
  }

  poke(): void {
    this.#loop?.poke();
  }

  async run(signal: AbortSignal): Promise<void> {
    this.#loop = new ServiceLoop("mails", this.#log, signal);
    await this.#loop.every(lookIntervalMs, () => this.sendDue(signal));
    this.#mailer.close();
  }

  /** Sends what is due, until nothing is. */
  async sendDue(signal: AbortSignal = new AbortController().signal): Promise<void> {
    while (!signal.aborted) {
      const mails = await claimMails(this.#db, claimedMax, this.#now(), leaseMs);
      if (mails.length === 0) return;
      for (const mail of mails) await this.#send(mail);
    }
  }

  async #send(mail: MailRow): Promise<void> {
    try {
      await withDeadline("the mail server", sendTimeoutMs, this.#mailer.send(mail));
    } catch (error) {
      const isLast = mail.attempts >= attemptsMax;
      const waitMs = Math.min(retryMsMin * 2 ** (mail.attempts - 1), retryMsMax);
      const timeNext = isLast ? null : new Date(this.#now().getTime() + waitMs);
      const message = (error instanceof Error ? error.message : String(error)).slice(0, errorLengthMax);
      const context = { err: error, mailId: mail.id, subject: mail.subject, attempts: mail.attempts };
      this.#log[isLast ? "error" : "warn"](context, isLast ? "a mail is given up" : "a mail could not be sent, will try again");
      await noteMailFailure(this.#db, mail.id, message, timeNext, this.#now());
      return;
    }
    await deleteMail(this.#db, mail.id);
    this.#log.debug({ mailId: mail.id, subject: mail.subject }, "a mail was sent");
  }
}
