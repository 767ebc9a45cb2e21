import { execFileSync } from "node:child_process";

import fc from "fast-check";
import { expect, test } from "vitest";

import { planDockerfile } from "./plan-dockerfile.ts";
import { DockerfileError } from "./dockerfile-error.ts";
import { shellQuote } from "./shell-quote.ts";
import { expand, known, recipeText, splitWords } from "./words.ts";

/** Whatever somebody writes. */

const keyword = fc.constantFrom(..."ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM RUN SHELL USER WORKDIR bogus #".split(" "));
const piece = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.constantFrom(
      ..."a /b c/ . $A ${A} ${A:-b} ${A:+$B} ${ ' \" \\ \\\n [\"x\"] [ ] = A=1 A= <<EOF <<-'E' EOF --from=0 --chown=a:b --mount=type=cache # AS".split(
        " ",
      ),
    ),
  },
  fc.string({ maxLength: 5 }),
);
const line = fc.tuple(keyword, fc.array(piece, { maxLength: 6 })).map(([word, pieces]) => `${word} ${pieces.join(" ")}`);
const dockerfile = fc.array(line, { maxLength: 8 }).map((lines) => ["FROM a", ...lines].join("\n"));

test("is understood, or refused with its place", () => {
  fc.assert(
    fc.property(dockerfile, (text) => {
      try {
        const { stages, main } = planDockerfile(text, { buildArgs: { A: "$x'" } });
        for (const { steps } of [...stages, main]) for (const { where } of steps) expect(where).toMatch(/^Dockerfile:\d+: [A-Z]+$/);
      } catch (error) {
        expect(error).toBeInstanceOf(DockerfileError);
        expect((error as DockerfileError).line).toBeLessThanOrEqual(text.split("\n").length);
      }
    }),
    { numRuns: 2000 },
  );
});

const place = { file: "f", line: 1, keyword: "ENV" };

test("as a value comes back from its quoted form, from the form that recipes have, and from a shell", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (value) => {
      const quoted = `"${value.replaceAll(/["$\\]/g, "\\$&")}"`;
      const expanded = expand(quoted, { escape: "\\", lookup: () => "never", place });
      expect(known(expanded, place, "a test")).toBe(value);
      expect(recipeText(expanded).replaceAll("$$", "$")).toBe(value);
      expect(splitWords(`A=${quoted} B=1`, "\\")).toEqual([`A=${quoted}`, "B=1"]);
    }),
  );
  const values = fc.sample(
    fc.string({ unit: "binary", minLength: 1 }).filter((value) => !/\0|\p{Surrogate}/u.test(value)),
    200,
  );
  const output = execFileSync("sh", ["-c", `printf '%s\\0' ${values.map(shellQuote).join(" ")}`], { encoding: "utf8" });
  expect(output.split("\0").slice(0, -1)).toEqual(values);
});
