#!/usr/bin/env node
// `npm run structure`: the import graph of src/ has no circle (type imports count: a circle of them is two files that
// cannot be read one after the other), no function is over 60 lines and no file over 400. Longer files are listed
// here with the most that they may have: the list is not to grow. Unit tests stand where what they test stands.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const FILE_MAX = 400;
const FUNCTION_MAX = 60;

/** Each with the reason why it is one file. */
const LONG_FILES = {
  // one class: a VM's arena, process and problem change together, and stopping undoes what serving did
  'src/host/vm/managed-vm.ts': 524,
  // the table of methods that an L1 may call, with the budgets and sessions that all of them share
  'src/host/vm/service.ts': 470,
  // one class: apt's directories, lists and downloads, and the errors that all of its commands share
  'src/lab/debs.ts': 410,
};

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

function sources() {
  return readdirSync(path.join(ROOT, 'src'), { recursive: true })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => path.join('src', name))
    .sort();
}

function importsOf(file, text) {
  return ts
    .preProcessFile(text, true, true)
    .importedFiles.map((i) => i.fileName)
    .filter((name) => name.startsWith('.'))
    .map((name) => path.join(path.dirname(file), name));
}

/** Tarjan's strongly connected components that have more than one file. */
function circles(graph) {
  const found = [];
  const index = new Map();
  const low = new Map();
  const stack = [];
  const visit = (file) => {
    index.set(file, index.size);
    low.set(file, index.get(file));
    stack.push(file);
    for (const next of graph.get(file)) {
      if (!graph.has(next)) continue;
      if (!index.has(next)) visit(next);
      if (stack.includes(next)) low.set(file, Math.min(low.get(file), low.get(next)));
    }
    if (low.get(file) !== index.get(file)) return;
    const circle = stack.splice(stack.indexOf(file));
    if (circle.length > 1) found.push(circle.sort());
  };
  for (const file of graph.keys()) if (!index.has(file)) visit(file);
  return found;
}

/** Functions with a body, by `file: name`; one without a name has that of what it is given to, or of what is around it. */
function lengths(file, text) {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found = new Map();
  const lineOf = (position) => source.getLineAndCharacterOfPosition(position).line;
  const visit = (node, around) => {
    let name = around;
    if (ts.isFunctionLike(node) && node.body !== undefined) {
      name = node.name?.getText() ?? node.parent.name?.getText() ?? around;
      const length = lineOf(node.end) - lineOf(node.getStart()) + 1;
      const key = `${file}: ${name}`;
      found.set(key, Math.max(length, found.get(key) ?? 0));
    }
    ts.forEachChild(node, (child) => visit(child, name));
  };
  visit(source, 'top level');
  return found;
}

/** What is over the limit and not listed, or over what is listed. */
function tooLong(what, found, max, listed = {}) {
  return [...found].flatMap(([name, length]) => {
    const allowed = Math.max(max, listed[name] ?? 0);
    return length > allowed ? [`${name}: ${what} of ${length} lines, ${allowed} at most`] : [];
  });
}

/** Rooms of test/unit that test no room of src: the repository itself, its documents and scripts. */
const ROOMS_OF_NONE = ['repository'];

/** Unit tests stand where what they test stands: test/unit/host/nics for src/host/nics. */
function strayRooms() {
  const unit = path.join(ROOT, 'test/unit');
  if (!existsSync(unit)) return [];
  return readdirSync(unit, { recursive: true, withFileTypes: true }).flatMap((entry) => {
    const at = path.relative(unit, path.join(entry.parentPath, entry.name));
    if (!entry.isDirectory()) return at.includes('/') ? [] : [`test/unit/${at}: in no room of src`];
    if (ROOMS_OF_NONE.includes(at) || existsSync(path.join(ROOT, 'src', at))) return [];
    return [`test/unit/${at}: there is no src/${at}`];
  });
}

const texts = new Map(sources().map((file) => [file, readFileSync(path.join(ROOT, file), 'utf8')]));
const graph = new Map([...texts].map(([file, text]) => [file, importsOf(file, text)]));
const fileLengths = new Map([...texts].map(([file, text]) => [file, text.split('\n').length - 1]));
const functionLengths = new Map([...texts].flatMap(([file, text]) => [...lengths(file, text)]));
const problems = [
  ...circles(graph).map((files) => `import circle: ${files.join(', ')}`),
  ...tooLong('file', fileLengths, FILE_MAX, LONG_FILES),
  ...tooLong('function', functionLengths, FUNCTION_MAX),
  ...strayRooms(),
];
for (const problem of problems) process.stdout.write(`${problem}\n`);
process.exitCode = problems.length === 0 ? 0 : 1;
