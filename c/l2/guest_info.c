// SPDX-License-Identifier: GPL-2.0
/*
 * guest_info [GROUP_MAX]: writes what the guest module says of itself, struct htg_info as it is, to its standard output,
 * after it has set the most pages that one fault may map, if that is given. For tests and benchmarks that ask often: under
 * emulation `hyperturtle guest status` takes seconds to start. Exit status 2: no module, or it refuses.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <hyperturtle/guest.h>

int main(int argc, char **argv)
{
	struct htg_set set = { .mask = HTG_SET_GROUP_MAX };
	struct htg_info info;
	int fd = open("/dev/hyperturtle-guest", O_RDWR | O_CLOEXEC);

	if (argc > 1)
		set.group_max = strtoull(argv[1], NULL, 10);
	if (fd < 0 || (argc > 1 && ioctl(fd, HTG_SET, &set)) || ioctl(fd, HTG_GET_INFO, &info)) {
		perror("/dev/hyperturtle-guest");
		return 2;
	}
	return write(1, &info, sizeof(info)) == sizeof(info) ? 0 : 2;
}
