// Lint: type-checked rules, and the direction of imports between the folders of src/ (docs/architecture.md).
import tseslint from 'typescript-eslint';
import path from 'node:path';
import ts from 'typescript';

/** Folders of src/ in the order in which they may import: each only itself and what stands before it. */
const LAYERS = [
  'kernel',
  'core',
  'wire',
  'net',
  'profile',
  'bpf',
  'qmp',
  'host',
  'guest',
  'client',
  'fleet',
  'cni',
  'kubernetes',
  'dashboard',
  'monitoring',
  'install',
  // from here on: what measures and emulates (docs/decisions/one-package.md)
  'lab',
  'testbed',
  'bench',
  'fuzz',
  'report',
  'cli',
];
/** Two sides of a trust border and a client of one of them: none may import another. */
const APART = new Set(['host', 'guest', 'cni']);
/** Only these may load the foreign-function library. */
const FFI = new Set(['bpf', 'guest']);

const layerOf = (file) => /[\\/]src[\\/]([a-z]+)[\\/]/.exec(file)?.[1];

const importDirection = {
  meta: { type: 'problem', schema: [], messages: { no: '{{from}} must not import {{to}}: {{why}}' } },
  create(context) {
    const from = layerOf(context.filename);
    if (from === undefined) return {};
    const check = (node) => {
      const spec = node.source?.value;
      if (typeof spec !== 'string') return;
      if (spec === 'koffi' && !FFI.has(from))
        context.report({
          node,
          messageId: 'no',
          data: { from, to: 'koffi', why: 'FFI stays in src/bpf and src/guest' },
        });
      if (!spec.startsWith('.')) {
        if (from === 'kernel')
          context.report({
            node,
            messageId: 'no',
            data: { from, to: spec, why: 'src/kernel imports nothing' },
          });
        return;
      }
      const to = layerOf(path.resolve(path.dirname(context.filename), spec));
      if (to === undefined || to === from) return;
      const why =
        LAYERS.indexOf(to) > LAYERS.indexOf(from)
          ? `imports go up the list ${LAYERS.join(' > ')} only`
          : APART.has(from) && APART.has(to)
            ? 'host, guest and cni never import each other'
            : undefined;
      if (why) context.report({ node, messageId: 'no', data: { from, to, why } });
    };
    return {
      ImportDeclaration: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      ImportExpression: check,
    };
  },
};

/** Text reaches a terminal through one place, where what acts on terminals is made visible. */
const output = {
  meta: {
    type: 'problem',
    schema: [],
    messages: { no: '{{what}}: use writeOut, writeErr or writeJson of src/core/output.ts' },
  },
  create(context) {
    if (layerOf(context.filename) === undefined || /[\\/]core[\\/]output\.ts$/.test(context.filename))
      return {};
    const text = (node) => context.sourceCode.getText(node);
    return {
      MemberExpression(node) {
        const what = text(node).replace(/\?|\s/g, '');
        if (/^process\.(stdout|stderr)\.(write|end)$/.test(what) || /^console\.\w+$/.test(what))
          context.report({ node, messageId: 'no', data: { what } });
      },
    };
  },
};

/**
 * No look-up by a name of somebody's choice in an object that has Object.prototype behind it: `toString` and
 * `constructor` would be found there, and `__proto__` set nothing. Names that the types know are not meant.
 */
const ownKeys = {
  meta: {
    type: 'problem',
    schema: [],
    messages: {
      no: "'{{what}}' may be found in Object.prototype: use a Map, own() or hasOwn() of src/core/own.ts, or Object.fromEntries()",
    },
  },
  create(context) {
    if (layerOf(context.filename) === undefined || /[\\/]core[\\/]own\.ts$/.test(context.filename)) return {};
    const { parserServices: services } = context.sourceCode;
    if (!services?.program) return {};
    const checker = services.program.getTypeChecker();
    const isOpen = (type) =>
      type.isUnion()
        ? type.types.some(isOpen)
        : type.isTypeParameter?.()
          ? isOpen(
              checker.getBaseConstraintOfType(type) ??
                type.getConstraint?.() ?? { flags: 0, isUnion: () => false },
            )
          : (type.flags & (ts.TypeFlags.String | ts.TypeFlags.TemplateLiteral)) !== 0;
    const report = (node, key) =>
      isOpen(services.getTypeAtLocation(key)) &&
      context.report({ node, messageId: 'no', data: { what: context.sourceCode.getText(key) } });
    return {
      MemberExpression(node) {
        if (node.computed) report(node, node.property);
      },
      BinaryExpression(node) {
        if (node.operator === 'in' && node.left.type !== 'PrivateIdentifier') report(node, node.left);
      },
    };
  },
};

export default tseslint.config(
  { ignores: ['dist/**', 'node_modules/**', 'results/**'] },
  ...tseslint.configs.recommendedTypeChecked.map((c) => ({ ...c, files: ['**/*.ts'] })),
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    plugins: { hyperturtle: { rules: { 'import-direction': importDirection, output, 'own-keys': ownKeys } } },
    rules: {
      'hyperturtle/import-direction': 'error',
      'hyperturtle/output': 'error',
      'hyperturtle/own-keys': 'error',
      // what a function holds by `using` or undoes in `finally` is otherwise gone before its promise has settled
      '@typescript-eslint/return-await': ['error', 'error-handling-correctness-only'],
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
    },
  },
  {
    // koffi's call results are untyped by nature: the binding files give each function its type by hand
    files: ['src/bpf/**/*.ts', 'src/guest/**/*.ts'],
    rules: { '@typescript-eslint/no-unsafe-assignment': 'off', '@typescript-eslint/no-unsafe-call': 'off' },
  },
);
