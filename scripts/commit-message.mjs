#!/usr/bin/env node
// `node scripts/commit-message.mjs FILE`: the form of a commit message, for .githooks/commit-msg.
import { readFileSync } from 'node:fs';

const SUBJECT_MAX = 72;
/** What git makes by itself, and what a rebase takes apart again. */
const MADE = /^(Merge|Revert|fixup!|squash!|amend!) ?/;

function problemsOf(text) {
  // what follows is git's: the diff of `commit --verbose`
  const own = text.split(/^# -+ >8 -+$/m)[0];
  const lines = own.split('\n').filter((line) => !line.startsWith('#'));
  const [subject = '', second = '', ...body] = lines;
  if (MADE.test(subject)) return [];
  const problems = [];
  if (subject.trim() === '') problems.push('the first line is empty: say there what the commit does');
  if ([...subject].length > SUBJECT_MAX)
    problems.push(`the first line has ${[...subject].length} characters: ${SUBJECT_MAX} at most`);
  if (second.trim() !== '') problems.push('the second line is not empty: git takes it for the subject');
  if (!body.some((line) => line.trim() !== ''))
    problems.push('there is no body: say why, below an empty line');
  return problems;
}

const [file] = process.argv.slice(2);
if (file === undefined) {
  process.stderr.write('usage: node scripts/commit-message.mjs FILE\n');
  process.exitCode = 2;
} else {
  const problems = problemsOf(readFileSync(file, 'utf8'));
  for (const problem of problems) process.stderr.write(`commit message: ${problem}\n`);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
