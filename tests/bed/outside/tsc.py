"""How fast this machine's TSC counts, which is the bed's too: TCG hands rdtsc on."""
import ctypes
import mmap
import time

RDTSC = bytes.fromhex("0f31" "48c1e220" "4809d0" "c3")  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
MEASURED_S = 0.2
READINGS = 50


def khz():
    """Measured, to some 20 ppm; the kernel inside makes it more exact when it has the time."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(RDTSC)
    place = ctypes.c_char.from_buffer(page)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))

    def reading():
        """(ns, ticks) of one moment: of several tries the one that was least held up."""
        tries = []
        for _ in range(READINGS):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            ticks = rdtsc()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            tries.append((after - before, (before + after) // 2, ticks))
        return min(tries)[1:]

    begin_ns, begin = reading()
    time.sleep(MEASURED_S)
    end_ns, end = reading()
    return round((end - begin) * 1_000_000 / (end_ns - begin_ns))
