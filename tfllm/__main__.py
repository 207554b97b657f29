"""`python -m tfllm` is the command `tfllm`."""

from tfllm.cli import main

if __name__ == "__main__":
    main()
