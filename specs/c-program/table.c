#include "table.h"

#include <stdlib.h>
#include <string.h>

static struct entry *find(struct table *table, const char *word) {
    for (size_t i = 0; i < table->length; i++)
        if (strcmp(table->entries[i].word, word) == 0)
            return &table->entries[i];
    return NULL;
}

int table_add(struct table *table, const char *word) {
    struct entry *entry = find(table, word);
    if (entry == NULL) {
        if (table->length == table->room) {
            size_t room = table->room ? 2 * table->room : 16;
            struct entry *entries = realloc(table->entries, room * sizeof *entries);
            if (entries == NULL)
                return 0;
            table->entries = entries;
            table->room = room;
        }
        entry = &table->entries[table->length];
        entry->count = 0;
        entry->word = malloc(strlen(word) + 1);
        if (entry->word == NULL)
            return 0;
        strcpy(entry->word, word);
        table->length++;
    }
    entry->count++;
    return 1;
}

static int compare(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? 1 : -1;
    return strcmp(a->word, b->word);
}

void table_sort(struct table *table) {
    if (table->length > 0)
        qsort(table->entries, table->length, sizeof *table->entries, compare);
}

void table_free(struct table *table) {
    for (size_t i = 0; i < table->length; i++)
        free(table->entries[i].word);
    free(table->entries);
}
