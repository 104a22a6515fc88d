/* Words and how often each was seen. */
#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>

struct entry {
    char *word;
    size_t count;
};

struct table {
    struct entry *entries;
    size_t length, room;
};

/* Counts one more of `word`; returns 0 when memory has run out. */
int table_add(struct table *table, const char *word);

/* Orders the entries: the most frequent first, equal ones by the alphabet. */
void table_sort(struct table *table);

void table_free(struct table *table);

#endif
