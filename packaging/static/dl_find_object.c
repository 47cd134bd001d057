/* Finds the unwind table of the code at pc: what the C library of GNU has and gcc's unwinder asks for. */
#define _GNU_SOURCE
#include <link.h>
#include <stdint.h>

struct found { unsigned long long flags; void *start, *end; struct link_map *map; void *table; unsigned long long more[7]; };
struct asked { uintptr_t pc; struct found *found; };

static int look(struct dl_phdr_info *info, size_t size, void *data) {
    struct asked *asked = data;
    int here = 0;
    void *table = 0;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_GNU_EH_FRAME) table = (void *)start;
        if (part->p_type != PT_LOAD || asked->pc < start || asked->pc - start >= part->p_memsz) continue;
        here = 1;
        asked->found->start = (void *)start;
        asked->found->end = (void *)(start + part->p_memsz);
    }
    if (!here || !table) return 0;
    asked->found->table = table;
    return 1;
}

int _dl_find_object(void *pc, struct found *found) {
    struct asked asked = { (uintptr_t)pc, found };
    return dl_iterate_phdr(look, &asked) ? 0 : -1;
}
