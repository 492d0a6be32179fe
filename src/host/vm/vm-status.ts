/** How one VM of the daemon is: for operators, measurements and findings. */
import type { ArenaInfo } from '../../wire/schema.ts';
import type { NicMachine } from '../nics/nics.ts';
import type { MoveProgress, MoveResult } from './moves.ts';
import type { VmService } from './service.ts';
import type { StillRecord } from './still-record.ts';

export interface VmStatus {
  name: string;
  phase: 'starting' | 'waiting' | 'attached' | 'still' | 'stopped';
  /** What stands in the way, for people. */
  problem: string | null;
  pid: number | null;
  qmp: { path: string; problem: string | null };
  arena: ArenaInfo;
  agent: { socket: string; connected: boolean; hello: ReturnType<VmService['status']>['agent'] };
  used: ReturnType<VmService['status']>['used'] | null;
  links: ReturnType<VmService['status']>['links'];
  ended: ReturnType<VmService['status']>['ended'];
  /** Could not be taken over from an earlier daemon: off, or held as it was. */
  leftOff: ReturnType<VmService['status']>['leftOff'];
  stats: ReturnType<VmService['status']>['stats'];
  countedSince: string | null;
  /** What L1 said last of itself. */
  l1: ReturnType<VmService['status']>['l1'];
  nics: ReturnType<VmService['status']>['nics'];
  /** Null while that is not known, or when no networks are configured for it. */
  nicMachine: NicMachine | null;
  /** Quiesced, moved, or on its way there. */
  still: Pick<StillRecord, 'state' | 'since' | 'to'> | null;
  move: MoveProgress | null;
  lastMove: MoveResult | null;
}

export const stillOf = (record: Readonly<StillRecord> | undefined): VmStatus['still'] =>
  record ? { state: record.state, since: record.since, to: record.to } : null;
