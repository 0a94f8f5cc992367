/* How far a device has come. It does what is submitted in that order, on whatever stream, `lag` launches behind.
 *
 * Without a lag, the default, everything is over the moment it is submitted. */
#include "device.h"

#include <stdatomic.h>

static _Atomic uint64_t submitted, awaited;

uint64_t submit_work(void)
{
    return ++submitted;
}

uint64_t work_so_far(void)
{
    return submitted;
}

bool work_is_done(uint64_t sequence)
{
    return !card()->lag || sequence <= awaited || sequence + card()->lag <= submitted;
}

void wait_for_work(uint64_t sequence)
{
    uint64_t known = awaited;
    while (known < sequence && !atomic_compare_exchange_weak(&awaited, &known, sequence))
        ;
}
