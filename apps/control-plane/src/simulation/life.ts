/** A process that was killed does nothing any more. */
export class Killed extends Error {
  override readonly name = "Killed";
}

/** What a simulated process does to the world, counted: it can be killed at any of these steps. */
export class Life {
  /** Steps it has left; undefined: nobody kills it */
  stepsLeft: number | undefined;
  isDead = false;
  readonly #onBusy: (change: 1 | -1) => void;
  readonly #breaks: () => "before" | "after" | undefined;

  /** `breaks`: whether what is asked of the database now fails, done or not */
  constructor(onBusy: (change: 1 | -1) => void, breaks: () => "before" | "after" | undefined) {
    this.#onBusy = onBusy;
    this.#breaks = breaks;
  }

  step(): void {
    if (this.stepsLeft !== undefined) {
      this.stepsLeft -= 1;
      if (this.stepsLeft <= 0) this.isDead = true;
    }
    if (this.isDead) throw new Killed("the process was killed");
  }

  /** One step, and what a host does meanwhile, which may take until some time has passed. */
  async elsewhere<Result>(work: () => Promise<Result>): Promise<Result> {
    this.step();
    return work();
  }

  /** One step, and what the world does meanwhile. */
  async during<Result>(work: () => Promise<Result>): Promise<Result> {
    this.step();
    this.#onBusy(1);
    try {
      return await work();
    } finally {
      this.#onBusy(-1);
    }
  }

  /** The same of the database, whose connection may break: nobody knows then whether it was done. */
  async query<Result>(work: () => Promise<Result>): Promise<Result> {
    const broken = this.#breaks();
    return this.during(async () => {
      if (broken === "before") throw new Error("simulated: the connection to the database broke");
      const result = await work();
      if (broken === "after") throw new Error("simulated: the connection to the database broke");
      return result;
    });
  }
}
