/**
 * Detached Ed25519 signatures of objects: keys as PEM files (what openssl reads and writes), a signature as a small
 * JSON file beside the object. What is signed is the object's bytes and nothing else.
 */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
  verify,
} from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { z } from 'zod';
import { HyperturtleError, isHyperturtleError, messageOf } from './errors.ts';
import { readInput } from './files.ts';
import { lazy } from './lazy.ts';
import type { Output } from './lazy.ts';

/** Largest file with a key or a signature, which has some hundred bytes. */
export const KEY_BYTES_MAX = 64 << 10;

/** In FILE.sig, and `signature` of the wire's `load`. */
export const Signature = lazy(() =>
  z.strictObject({
    /** First 16 hexadecimal digits of the SHA-256 of the public key (its 32 bytes). */
    keyId: z.string().regex(/^[0-9a-f]{16}$/),
    /** base64 of the signature's 64 bytes. */
    value: z.base64().length(88),
  }),
);
export type Signature = Output<typeof Signature>;

/** Where the signature of an object file is expected. */
export const signaturePath = (file: string): string => `${file}.sig`;

export interface KeyPair {
  /** PEM, PKCS #8. Secret. */
  privateKey: string;
  /** PEM, SubjectPublicKeyInfo. */
  publicKey: string;
  keyId: string;
}

export function generateKeys(): KeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return {
    privateKey: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    publicKey: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
    keyId: keyIdOf(publicKey),
  };
}

function keyIdOf(publicKey: KeyObject): string {
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  // the key itself is the end of the structure around it
  return createHash('sha256').update(spki.subarray(-32)).digest('hex').slice(0, 16);
}

export function signObject(elf: Uint8Array, privateKey: KeyObject): Signature {
  return {
    keyId: keyIdOf(createPublicKey(privateKey)),
    value: sign(null, elf, privateKey).toString('base64'),
  };
}

/**
 * A verifier that knows these public keys: returns the id of the key that signed, and throws HT_SIGNATURE when none of
 * them did. Reading the files throws HT_NOT_FOUND, or HT_CONFIG for one that holds no Ed25519 public key.
 */
export function verifierOf(keyFiles: readonly string[]): (elf: Uint8Array, signature: Signature) => string {
  const keys = new Map(
    keyFiles.map((file) => {
      const key = readPublicKey(file);
      return [keyIdOf(key), key] as const;
    }),
  );
  return (elf, signature) => {
    const key = keys.get(signature.keyId);
    if (key === undefined)
      throw new HyperturtleError(
        'HT_SIGNATURE',
        `signed with key ${signature.keyId}, which is not among the allowed ones (${Array.from(keys.keys()).join(', ') || 'there are none'}): sign it with one of these, or add its public key`,
      );
    if (!verify(null, elf, key, Buffer.from(signature.value, 'base64')))
      throw new HyperturtleError(
        'HT_SIGNATURE',
        `the signature by key ${signature.keyId} is not of these bytes: the object was changed or built again after it was signed; sign it again`,
      );
    return signature.keyId;
  };
}

/** Throws HT_NOT_FOUND, HT_CONFIG. */
function readPublicKey(file: string): KeyObject {
  return readKey(file, 'public', createPublicKey);
}

/** Throws HT_NOT_FOUND, HT_CONFIG. */
export function readPrivateKey(file: string): KeyObject {
  return readKey(file, 'private', createPrivateKey);
}

/** The signature in FILE.sig, or undefined without such a file. Throws HT_SIGNATURE when it is something else. */
export function readSignature(file: string): Signature | undefined {
  let text: string;
  try {
    text = readInput(file, "a signature of 'hyperturtle sign' expected", KEY_BYTES_MAX).toString('utf8');
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND')) return undefined;
    throw e;
  }
  try {
    return Signature().parse(JSON.parse(text));
  } catch (e) {
    throw new HyperturtleError(
      'HT_SIGNATURE',
      `${file}: a signature as 'hyperturtle sign' writes it expected ({"keyId": ..., "value": ...})`,
      { cause: e },
    );
  }
}

function readKey(file: string, kind: 'public' | 'private', parse: (pem: string) => KeyObject): KeyObject {
  let pem: string;
  try {
    pem = readInput(file, "make a key with 'hyperturtle keygen'", KEY_BYTES_MAX).toString('utf8');
  } catch (e) {
    const code = isHyperturtleError(e, 'HT_NOT_FOUND') ? e.code : 'HT_CONFIG';
    throw new HyperturtleError(code, messageOf(e), { cause: e });
  }
  const wrong = (found: string): HyperturtleError =>
    new HyperturtleError(
      'HT_CONFIG',
      `${file}: an Ed25519 ${kind} key in PEM expected, ${found} found: make one with 'hyperturtle keygen'`,
    );
  // a private key would do as a public one, and must not lie where public keys belong
  if (kind === 'public' && /PRIVATE KEY/.test(pem)) throw wrong('a private key');
  let key: KeyObject;
  try {
    key = parse(pem);
  } catch {
    throw wrong('something else');
  }
  if (key.asymmetricKeyType !== 'ed25519') throw wrong(`a key of type ${key.asymmetricKeyType}`);
  return key;
}
