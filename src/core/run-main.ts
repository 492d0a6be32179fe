/** The end of a program's file. */

/** As Node's own has it: 'await' at the end of a module that nothing will settle. */
const UNSETTLED_STATUS = 13;

/**
 * The whole work of a process, as `await main()` at the end of an ES module is. When nothing is left that could settle it the
 * process says so and ends with status 13: that is a bug.
 */
export function runMain(main: () => Promise<void>): void {
  let settled = false;
  process.once('beforeExit', () => {
    if (settled) return;
    process.exitCode = UNSETTLED_STATUS;
    process.emitWarning('ended before its work was done');
  });
  void main().finally(() => {
    settled = true;
  });
}
