#!/usr/bin/env node
// `npm run words`: English that readers stumble over, and what to write in its place. Looks at documents, comments and
// messages.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const DIRS = ['.ci', '.githooks', '.github', 'c', 'dist-files', 'docs', 'examples', 'scripts', 'src', 'test'];
const TEXT = /\.(ts|mjs|md|c|h|S|mk|sh|ya?ml|service|svg)$/;
/** This file has them all. */
const SELF = 'scripts/words.mjs';

/** A pattern, what to write in its place, and in which files: in all where that is left out. */
const BANNED = [
  // a member of the wire protocol's findings has this name until its next version: `mend`
  [/\bmend(?:s|ed|ing)\b|\b(?:to|a|the|its|each|and|or|that|can|will) mend\b/, 'fix'],
  [/\banew\b/, 'again'],
  [/\b(?:is|are|was|all) well(?=[,.;:)]|$)/, 'OK, right'],
  [/(?:^|, )be it\b/, 'whether'],
  [/\bfor ever\b/, 'forever'],
  [/\bwho(?:so)?ever\b/, 'anyone who, the one that, no matter who'],
  [/\b(?!instead)\w+ of ours\b/, 'our ...'],
  [/\ball that is wanted is there\b/, 'in sync'],
  [/\bto look at\b/, 'a warning, to inspect'],
  [/\bbe had\b/, 'be available, exist, be got'],
  [/\bin (?:its|their|our|his|her|your) stead\b/, 'in its place, instead'],
  [/\bas ever\b/, 'as always, as before'],
  [/\bof L[0-2]'s(?=[,.;:)]| (?:by|with|for)\b)/, "of L0, of L1, the host's ..."],
  [/\/\*\* (?:of|whose|whom) /, 'the thing or a verb first: "NICs of the L1.", not "Of the L1."', /^src\//],
  [/\bstands? in (?!for\b|its place|(?:the|their|its|our) way\b)/, 'is in, is defined in'],
];

function files() {
  const below = DIRS.flatMap((dir) =>
    existsSync(path.join(ROOT, dir))
      ? readdirSync(path.join(ROOT, dir), { recursive: true }).map((name) => path.join(dir, name))
      : [],
  );
  return [...readdirSync(ROOT), ...below].filter((file) => TEXT.test(file) && file !== SELF).sort();
}

let found = 0;
for (const file of files()) {
  const lines = readFileSync(path.join(ROOT, file), 'utf8').split('\n');
  for (const [i, line] of lines.entries())
    for (const [pattern, instead, where] of BANNED) {
      if (where !== undefined && !where.test(file)) continue;
      const match = new RegExp(pattern, 'i').exec(line);
      if (match === null) continue;
      found += 1;
      process.stdout.write(`${file}:${i + 1}: '${match[0].trim()}': write: ${instead}\n`);
    }
}
process.exitCode = found === 0 ? 0 : 1;
