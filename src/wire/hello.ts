/** Both sides of the hello: which version of the protocol is spoken. */
import { randomBytes } from 'node:crypto';
import { wireFailure } from './errors.ts';
import type { RequestOptions, RpcPeer } from './peer.ts';
import { PROTOCOL } from './schema.ts';
import type { METHODS, Params, Result } from './schema.ts';

/** The client's: throws what `request` throws, UNSUPPORTED_PROTOCOL (HT_UNSUPPORTED) among them. */
export function hello(
  peer: RpcPeer<typeof METHODS>,
  who: Pick<Params<'hello'>, 'agent' | 'bootId'>,
  options: RequestOptions = {},
): Promise<Result<'hello'>> {
  const nonce = randomBytes(16).toString('hex');
  return peer.request('hello', { protocol: PROTOCOL, ...who, nonce }, options);
}

/** The server's: the highest version that both speak, or UNSUPPORTED_PROTOCOL. */
export function negotiate(
  theirs: { min: number; max: number },
  ours: { min: number; max: number } = PROTOCOL,
): number {
  const version = Math.min(theirs.max, ours.max);
  if (version < theirs.min || version < ours.min)
    throw wireFailure(
      'UNSUPPORTED_PROTOCOL',
      `protocol ${ours.min} to ${ours.max} spoken here, ${theirs.min} to ${theirs.max} asked for: update the older side`,
    );
  return version;
}
