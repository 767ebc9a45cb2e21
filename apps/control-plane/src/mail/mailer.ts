/** One mail, ready to go. */
export interface OutgoingMail {
  /** Unique; becomes the Message-ID, so that a mail that was sent twice is seen to be one */
  readonly id: string;
  readonly recipient: string;
  readonly subject: string;
  readonly text: string;
  readonly html: string;
}

/** Port: how mails leave. */
export interface Mailer {
  /** Whether they get to people. Without that nobody can be asked to confirm an address. */
  readonly isReal: boolean;
  /** Resolves when somebody else has taken the mail over for good; rejects when it should be tried again. */
  send(mail: OutgoingMail): Promise<void>;
  close(): void;
}
