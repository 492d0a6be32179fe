/** `hyperturtle keygen|sign|verify`: who an object comes from. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { printJson } from '../shared/values.ts';

export function registerKeys(program: Command): void {
  program
    .command('keygen')
    .description('make a key pair for signing objects')
    .argument('[name]', 'writes NAME.key (secret) and NAME.pub', 'hyperturtle')
    .option('--json', 'one line of JSON')
    .addHelpText(
      'after',
      `
Example: only what the team signed may be loaded into VM build1.
  $ hyperturtle keygen team                  # team.key stays with the team, team.pub goes to the host
  $ hyperturtle sign --key team.key npf.bpf.o
  vms:                                       # /etc/hyperturtle/host.yaml
    build1: { signature: required, keys: [/etc/hyperturtle/team.pub] }`,
    )
    .action(keygen);

  program
    .command('sign')
    .description('sign an object: writes FILE.sig, which load sends along')
    .argument('<file>', 'compiled hyperupcall (.bpf.o)')
    .requiredOption('--key <file>', "private key of 'hyperturtle keygen'")
    .option('--json', 'one line of JSON')
    .action(signFile);

  program
    .command('verify')
    .description('check FILE.sig against public keys')
    .argument('<file>', 'compiled hyperupcall (.bpf.o)')
    .requiredOption('--key <file...>', "public keys of 'hyperturtle keygen'")
    .option('--json', 'one line of JSON')
    .action(verifyFile);
}

interface Output {
  json?: boolean;
}

async function keygen(name: string, options: Output): Promise<void> {
  const [{ generateKeys }, fs, { HyperturtleError, errnoCode }, { fileError }, path] = await Promise.all([
    import('../../core/signature.ts'),
    import('node:fs'),
    import('../../core/errors.ts'),
    import('../../core/files.ts'),
    import('node:path'),
  ]);
  if (path.basename(name) === '' || name.endsWith('/'))
    throw new HyperturtleError('HT_USAGE', `'${name}': a name for the files of the keys expected`);
  const keys = generateKeys();
  const files = { privateKey: `${name}.key`, publicKey: `${name}.pub` };
  /** Never over a key that may be the only copy. */
  const make = (file: string, text: string, mode: number): void => {
    try {
      fs.writeFileSync(file, text, { mode, flag: 'wx' });
    } catch (e) {
      if (errnoCode(e) === 'EEXIST')
        throw new HyperturtleError('HT_EXISTS', `${file} is there already: give another name`);
      fs.rmSync(file, { force: true }); // half a key
      throw fileError(e, 'cannot be written', file);
    }
  };
  make(files.privateKey, keys.privateKey, 0o600);
  try {
    make(files.publicKey, keys.publicKey, 0o644);
  } catch (e) {
    fs.rmSync(files.privateKey);
    throw e;
  }
  if (options.json) return printJson({ keyId: keys.keyId, ...files });
  writeOut(
    `key ${keys.keyId}\n${files.privateKey}  secret: signs (hyperturtle sign --key)\n${files.publicKey}  public: list it under 'keys' of a VM\n`,
  );
}

async function signFile(file: string, options: Output & { key: string }): Promise<void> {
  const [{ readPrivateKey, signObject, signaturePath }, { replaceFile }, { readObjectFile }] =
    await Promise.all([
      import('../../core/signature.ts'),
      import('../../core/files.ts'),
      import('../../core/object-file.ts'),
    ]);
  const key = readPrivateKey(options.key);
  const signature = signObject(readObjectFile(file), key);
  const out = signaturePath(file);
  replaceFile(out, `${JSON.stringify(signature)}\n`);
  if (options.json) return printJson({ file, signature: out, keyId: signature.keyId });
  writeOut(`${out}  signed with key ${signature.keyId}\n`);
}

async function verifyFile(file: string, options: Output & { key: string[] }): Promise<void> {
  const [{ readSignature, signaturePath, verifierOf }, { HyperturtleError }, { readObjectFile }] =
    await Promise.all([
      import('../../core/signature.ts'),
      import('../../core/errors.ts'),
      import('../../core/object-file.ts'),
    ]);
  const elf = readObjectFile(file);
  const verify = verifierOf(options.key);
  const signature = readSignature(signaturePath(file));
  if (signature === undefined)
    throw new HyperturtleError(
      'HT_SIGNATURE',
      `${signaturePath(file)} is not there: sign it with 'hyperturtle sign --key NAME.key ${file}'`,
    );
  const keyId = verify(elf, signature);
  if (options.json) return printJson({ file, ok: true, keyId });
  writeOut(`${file}  signed with key ${keyId}\n`);
}
