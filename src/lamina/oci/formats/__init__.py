"""What documents of images say: manifests, indexes, configs, platforms; all of it from outside."""
