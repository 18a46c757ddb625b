/* What preparing memory costs at least: so many threads, each with its share of a mapping of so
 * many MiB, and MADV_POPULATE_WRITE.  Prints the seconds. */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define HUGE_PAGE (2UL << 20)

struct share {
	char *start;
	size_t size;
};

static void *populate(void *argument)
{
	struct share *share = argument;

	if (madvise(share->start, share->size, MADV_POPULATE_WRITE) != 0) {
		perror("MADV_POPULATE_WRITE");
		exit(1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[2]) : 1;
	size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1024) << 20;
	pthread_t threads[64];
	struct share shares[64];
	struct timespec before, after;
	char *start;
	int i;

	if (count < 1 || count > 64 || size % (HUGE_PAGE * count)) {
		fprintf(stderr, "usage: populate MIB THREADS\n");
		return 1;
	}
	start = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	start += -(size_t)start & (HUGE_PAGE - 1);
	madvise(start, size, MADV_HUGEPAGE);
	clock_gettime(CLOCK_MONOTONIC, &before);
	for (i = 0; i < count; i++) {
		shares[i].size = size / count;
		shares[i].start = start + i * shares[i].size;
		if (pthread_create(&threads[i], NULL, populate, &shares[i]) != 0)
			return 1;
	}
	for (i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &after);
	printf("%.4f\n", (after.tv_sec - before.tv_sec) + (after.tv_nsec - before.tv_nsec) / 1e9);
	return 0;
}
