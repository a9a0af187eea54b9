# The image that web:prod is right now. Terraform asks baker each time it plans.
terraform {
  required_providers {
    external = { source = "hashicorp/external" }
  }
}

data "external" "image" {
  program = ["baker", "image", "resolve", "--format", "external"]
  query   = { reference = "web:prod", target = "local" }
}

# An AWS launch template takes it as image_id; for AWS ask target = "aws" and a region.
output "image_id" {
  value = data.external.image.result.id
}
