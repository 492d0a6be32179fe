/** How help looks: a command's own options before those that most commands have, no empty defaults, no internals. */
import { Help } from 'commander';
import type { Command, HelpConfiguration, Option } from 'commander';

/** Options of most commands, in the order in which they follow a command's own. */
const COMMON = ['--json', '--socket', '--timeout-s', '--version', '--help'];

const rank = (o: Option): number => COMMON.indexOf(o.long ?? '');

/** A command's own options as they were declared, then the common ones. */
export const ownFirst = (options: readonly Option[]): Option[] =>
  [...options].sort((a, b) => rank(a) - rank(b));

/** Whether help names the default: an empty list, record or text says nothing. */
export function hasShownDefault({ defaultValue, defaultValueDescription }: Option): boolean {
  const value: unknown = defaultValue;
  if (value === undefined || typeof value === 'boolean') return false;
  if (defaultValueDescription !== undefined) return true;
  return typeof value === 'object' && value !== null ? Object.keys(value).length > 0 : value !== '';
}

/** An option as it is described, without a default that says nothing. */
function described(o: Option): string {
  if (o.defaultValue === undefined || hasShownDefault(o) || typeof o.defaultValue === 'boolean')
    return Help.prototype.optionDescription(o);
  const plain = Object.create(o) as Option;
  plain.defaultValue = undefined;
  return Help.prototype.optionDescription(plain);
}

/** What sub-commands take over from the program. */
export const HELP_STYLE: HelpConfiguration = {
  showGlobalOptions: false,
  visibleOptions(command) {
    return ownFirst(Help.prototype.visibleOptions.call(new Help(), command));
  },
  optionDescription: described,
};

/** Sub-commands for people: those that tests and other commands call are left out. */
export function shownCommands(command: Command): Command[] {
  return Help.prototype.visibleCommands.call(new Help(), command).filter((c) => command.commands.includes(c));
}
