/**
 * Text of others (a file, a guest, a host, a log of the kernel), made safe to show: names in an object or of a VM may hold
 * sequences that move a terminal's cursor, rewrite lines that stand above, or turn the order of letters around.
 */

/** What acts on a terminal or on the order of text, beside line ends and tabs: controls, formats, separators, halves of pairs. */
const ACTING = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

const written = (c: string): string => {
  const hex = c.codePointAt(0)!.toString(16);
  return hex.length <= 2 ? `\\x${hex.padStart(2, '0')}` : `\\u{${hex}}`;
};

/** Text of several lines: what acts on a terminal is written by its number, `\x1b`. */
export function visible(text: string): string {
  return text.replace(ACTING, written);
}

/** A name, or text that has one line: line ends and tabs are written by their numbers too. */
export function visibleLine(text: string): string {
  return visible(text).replace(/[\n\t]/g, written);
}

/** The same for a person, in a log or an answer of bounded length. */
export function shortLine(text: string, most: number): string {
  const line = visibleLine(text.slice(0, most + 1));
  return line.length > most ? `${line.slice(0, most - 3)}...` : line;
}

/** JSON on one line that no terminal acts upon; to a program it says the same as before. */
export function visibleJson(json: string): string {
  return json.replace(ACTING, (c) =>
    // outside of its strings JSON has none of these
    Array.from({ length: c.length }, (_, i) => `\\u${c.charCodeAt(i).toString(16).padStart(4, '0')}`).join(
      '',
    ),
  );
}
