/* vsock-echo PORT: in a guest, send back all that one peer sends over AF_VSOCK. */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
    static char buffer[65536];
    int listener, peer;
    ssize_t got;

    if (argc != 2)
        return 2;
    address.svm_port = (unsigned)atoi(argv[1]);
    listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
        listen(listener, 1)) {
        perror("vsock-echo");
        return 1;
    }
    puts("vsock-echo: listening");
    fflush(stdout);
    peer = accept(listener, NULL, NULL);
    while ((got = read(peer, buffer, sizeof(buffer))) > 0)
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(peer, buffer + done, (size_t)(got - done));
            if (put < 0) {
                perror("vsock-echo");
                return 1;
            }
            done += put;
        }
    return got < 0;
}
