import type { Command, Option } from "commander";

/**
 * Lets options of `exec`, `shell` and `ssh` stand behind the sandbox's id, too (`roost shell ID --tag work`), although
 * everything behind the command to run belongs to that command: they are moved in front of the id.
 */
export function liftOptions(program: Command, argv: readonly string[]): string[] {
  const command = program.commands.find((candidate) => candidate.name() === argv[0]);
  if (command === undefined || !liftingCommands.has(command.name())) return [...argv];
  const words = argv.slice(1);
  const lifted: string[] = [];
  const operands: string[] = [];
  while (operands.length < 2) {
    const word = words[0];
    if (word === undefined || word === "--") break;
    // What is no option of `roost ssh` is one of ssh
    if (command.name() === "ssh" && operands.length > 0 && optionOf(command, word) === undefined) break;
    if (word.startsWith("-") && word !== "-") lifted.push(...words.splice(0, takesValue(command, word) ? 2 : 1));
    else if (operands.length === 0) operands.push(...words.splice(0, 1));
    else break;
  }
  return [command.name(), ...lifted, ...operands, ...words];
}

const liftingCommands = new Set(["exec", "shell", "ssh"]);

function takesValue(command: Command, word: string): boolean {
  return optionOf(command, word)?.required === true;
}

function optionOf(command: Command, word: string): Option | undefined {
  return command.options.find((candidate) => candidate.long === word || candidate.short === word);
}
