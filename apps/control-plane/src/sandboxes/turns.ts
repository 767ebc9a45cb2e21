/** Lets so many act at once; the others wait, in the order they came. */
export class Turns {
  readonly #max: number;
  readonly #waiting: (() => void)[] = [];
  #acting = 0;

  constructor(max: number) {
    this.#max = max;
  }

  async take<Result>(act: () => Promise<Result>): Promise<Result> {
    if (this.#acting < this.#max) this.#acting += 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await act();
    } finally {
      const next = this.#waiting.shift(); // it acts in this one's place
      if (next === undefined) this.#acting -= 1;
      else next();
    }
  }
}
