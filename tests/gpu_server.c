/* gpu_server PORT UUID MIB [SECONDS]: a model service in small, with a context and so many MiB on a GPU of fake_gpu.c, as one static
 * program: its image has nothing else, no python3 and no shell. Answers every request with how many bytes of the GPU are free; UUID `none`:
 * it has none. Takes memory so many seconds after its start: a real one reads its weights first. Where there is no room it ends.
 */
#include "fake_gpu.c"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

static void answer(int client, int has) {
  char asked[4096], text[256];
  size_t left = 0, total = 0;
  struct timeval second = {1, 0};
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
  if (read(client, asked, sizeof asked) > 0 && (!has || !cuMemGetInfo_v2(&left, &total))) {
    char body[64];
    snprintf(body, sizeof body, "%zu bytes are free", left);
    int size = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    if (write(client, text, size) < size) perror("answer");
  }
  close(client);
}

int main(int count, char **words) {
  if (count != 4 && count != 5) return 2;
  int has = strcmp(words[2], "none"), on = 1;
  void *context;
  u64 memory;
  setenv("CUDA_VISIBLE_DEVICES", words[2], 1);
  if (count == 5) sleep(atoi(words[4]));
  if (has && (cuInit(0) || cuCtxCreate_v2(&context, 0, 0) || cuMemAlloc_v2(&memory, (size_t)atoi(words[3]) << 20))) {
    fprintf(stderr, "no room for %s MiB on %s\n", words[3], words[2]);
    return 1;
  }
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 64)) return perror("listen"), 1;
  for (;;) answer(accept(listener, NULL, NULL), has);
}
