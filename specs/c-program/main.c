/* Counts the words on standard input and prints them, the most frequent first. */
#include "table.h"

#include <stdio.h>

int main(void) {
    struct table table = {0};
    char word[256];
    while (scanf("%255s", word) == 1) {
        if (!table_add(&table, word)) {
            fputs("wordfreq: out of memory\n", stderr);
            table_free(&table);
            return 1;
        }
    }
    table_sort(&table);
    for (size_t i = 0; i < table.length; i++)
        printf("%zu %s\n", table.entries[i].count, table.entries[i].word);
    table_free(&table);
    return 0;
}
