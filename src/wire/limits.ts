/** What one connection may cost. Nothing in a peer's hands makes memory or work grow beyond these. */

export interface RpcLimits {
  /** Longest line, in bytes without its newline, in both directions. */
  maxFrameBytes: number;
  /** Values (brackets and commas) in a message that is received. */
  maxValues: number;
  /** Requests of the other side being worked on; while one more waits, nothing is read. */
  maxInProgress: number;
  /**
   * Lines in a row that do not begin as a message and are answered; more are counted and no more. Who writes many reads
   * no answers: they would fill the port, and stand before those of the next agent.
   */
  maxNoiseAnswers: number;
  /** Own requests without an answer; more are refused at once with HT_BUSY. */
  maxOutstanding: number;
  /** Output not taken by the other side; above it nothing is read, and own requests are refused with HT_BUSY. */
  maxQueuedBytes: number;
  /** Output not taken by the other side, above which notifications are dropped and counted. */
  maxQueuedNotificationBytes: number;
  /** Lines read per second that begin as a message or are answered, after a burst of a quarter second (16 at least). 0: as many as come. */
  requestsPerSecond: number;
  /** Bytes read per second after a burst of two frames. 0: as many as come. */
  bytesPerSecond: number;
  /** Output stays above maxQueuedBytes for so long: the connection is closed. */
  stallTimeoutMs: number;
  /** A request of the other side is aborted after so long and answered with DEADLINE. */
  maxRequestMs: number;
}

export const DEFAULT_LIMITS: Readonly<RpcLimits> = {
  maxFrameBytes: 4 << 20,
  maxValues: 1 << 20,
  maxInProgress: 64,
  maxNoiseAnswers: 16,
  maxOutstanding: 1024,
  maxQueuedBytes: 8 << 20,
  maxQueuedNotificationBytes: 1 << 20,
  requestsPerSecond: 0,
  bytesPerSecond: 0,
  stallTimeoutMs: 60_000,
  maxRequestMs: 120_000,
};

/** For a peer that is not trusted: a VM. */
export const TENANT_LIMITS: Readonly<RpcLimits> = {
  ...DEFAULT_LIMITS,
  maxValues: 8192,
  requestsPerSecond: 1000,
  bytesPerSecond: 16 << 20,
};
