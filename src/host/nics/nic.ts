/** One NIC of a VM: what the record keeps of it, and how far it has come. */
import type { NicInfo } from '../../wire/schema.ts';
import { oldDeviceIdOf } from './plug.ts';
import type { NicRecord } from './record.ts';

/**
 * making -> plugged -> leaving -> removed. `unknown`: QEMU was asked for it and did not answer; nobody knows what it did,
 * until it is asked again. A NIC that leaves is removed when its guest has released it, which may never be.
 */
export type NicState = 'making' | 'plugged' | 'leaving' | 'unknown';

export class Nic {
  readonly #record: NicRecord;
  #state: NicState;
  /** Settles when nothing is attached to it any more; while it leaves. */
  #ended: Promise<void> | undefined;

  /** As the record has it: of an earlier daemon, or not given to QEMU yet. */
  constructor(record: NicRecord) {
    this.#record = record;
    this.#state = record.complete ? 'plugged' : 'making';
  }

  get id(): string {
    return this.#record.info.id;
  }

  get info(): NicInfo {
    return this.#record.info;
  }

  get record(): Readonly<NicRecord> {
    return this.#record;
  }

  get state(): NicState {
    return this.#state;
  }

  /** QEMU's id of the device. */
  get device(): string {
    return this.#record.device ?? oldDeviceIdOf(this.id);
  }

  /** QEMU has said that it is there, and nobody has taken it away yet: also while it leaves. */
  get complete(): boolean {
    return this.#record.complete;
  }

  /** QEMU has it. */
  plugged(): void {
    this.#record.complete = true;
    if (this.#state === 'making') this.#state = 'plugged';
  }

  /** QEMU was asked for it and nobody knows what came of it. */
  lost(): void {
    if (this.#state === 'making') this.#state = 'unknown';
  }

  /**
   * Begins to leave, once: `end` takes off what is attached to it, and is not called for one that never was whole. Settles
   * when it has; throws what `end` throws.
   */
  leave(end: () => void | Promise<void>): Promise<void> {
    if (this.#ended !== undefined) return this.#ended;
    this.#state = 'leaving';
    const going = async (): Promise<void> => {
      if (this.complete) await end();
    };
    return (this.#ended = going());
  }
}
