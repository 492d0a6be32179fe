/**
 * A setup file of every project: tests end when vitest was killed, and with them the labs and namespaces that they own. Of
 * itself vitest leaves its workers behind.
 */
process.once('disconnect', () => process.exit(1));
